"""Which words should stand for a class?

A student of CSM knows its classes only as text embeddings, so "crane" means what the teacher's
text tower makes of the word. The prompt sets here say more: CLIP's templates, the kind of thing
(`hypernym`), its definition (`gloss`), its other names (`synonyms`), and our reading of BeamCLIP's
context-based prompt augmentation (`cpa`: name, sense and templates together). How sharply the
student must separate anchors, τ_S, may depend on how far apart the words put them, so both are
swept.

All of it costs text-tower time only: after the first pass over the images, no prompt set needs
another.

The demo's teacher was trained on digits in CLIP's templates and nothing else. It does not know the
words of a definition, so its numbers do not show whether definitions help. Ask that of a real
CLIP.

    python sweeps/prompt_sets.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/prompt_sets.py --preset cifar10 --data DIR
    python sweeps/prompt_sets.py --preset imagenet --data DIR --workers 8 --gpus-per-worker 1
"""

from beamclip import Sweep, choice, sweep_main

SWEEP = Sweep(
    name="prompt_sets",
    question="Which words should stand for a class, and how sharply should they be separated?",
    space={
        "anchors.prompt_set": choice("plain", "openai_7", "hypernym", "gloss", "synonyms", "cpa"),
        "objective.student_temperature": choice(0.05, 0.1),
    },
)

if __name__ == "__main__":
    sweep_main(SWEEP)
