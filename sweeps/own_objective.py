"""Is a loss of your own better than regression of the teacher's embedding?

This file is a sweep and an objective in one: copy it, and write your own loss. `my_loss` pulls the
student's embedding towards the teacher's, but ignores images for which the two are already closer
than a margin.

An objective is a function of the inputs of one step. `@register_objective` declares which inputs it
requires. Its keyword-only parameters are its settings, here `objective.my_loss.margin`, and can be
swept like any other setting. It returns named scalars: "loss" is minimized, the others are logged.
For a loss with weights or a memory of its own, write a class instead; see docs/contributing.md.

    python sweeps/own_objective.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/own_objective.py --preset cifar10 --data DIR

The same loss without a script:

    beamclip train --set objective.name=sweeps/own_objective.py:my_loss
"""

from beamclip import Requirements, Sweep, choice, register_objective, sweep_main


@register_objective(requires=Requirements(projected=True, embeddings=True))
def my_loss(inputs, *, margin: float = 0.2):
    """Pull student and teacher embeddings together, up to a margin of cosine distance."""
    # Imported here, because the driver of the sweep runs this file as well, and needs no torch.
    import torch.nn.functional as F

    student = inputs.embeddings.float()
    teacher = inputs.teachers[0].float()
    distance = 1 - F.cosine_similarity(student, teacher, dim=-1)
    loss = F.relu(distance - margin).mean()
    return {"loss": loss, "within_margin": (distance < margin).float().mean()}


SWEEP = Sweep(
    name="own_objective",
    question="Is a loss with a margin better than regression of the teacher's embedding?",
    variants={
        "feature": {"objective.name": "feature"},
        "margin_0.1": {"objective.name": f"{__file__}:my_loss", "objective.my_loss.margin": 0.1},
        "margin_0.3": {"objective.name": f"{__file__}:my_loss", "objective.my_loss.margin": 0.3},
    },
    space={"variant": choice("feature", "margin_0.1", "margin_0.3")},
)

if __name__ == "__main__":
    sweep_main(SWEEP)
