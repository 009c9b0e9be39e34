"""Which words should stand for a class?

A student of CSM knows its classes only as text embeddings, so "crane" means what the teacher's
text tower makes of the word. Apart from `plain`, the prompt sets here say more than the name:
CLIP's templates (`openai_7`), the kind of thing (`hypernym`), its definition (`gloss`), its other
names (`synonyms`), and our reading of BeamCLIP's context-based prompt augmentation (`cpa`: name,
sense and templates together). How sharply the student should separate anchors, τ_S, may depend on
how far apart the prompts place them, so both are swept.

Prompt sets only cost time of the text tower: all of them share one teacher pass over the images.

The demo's teacher was trained on digits in CLIP's templates and nothing else. It does not know the
words of a definition, so the demo can't show whether definitions help. Use a real CLIP for that.

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
