"""Which augmentation, how strong, and how many stored views?

The teacher should see the same view of an image as the student, so new views cost teacher passes.
Each of the two recipes at each of the two strengths has its own views. A store of two views also
serves trials that use one. So the eight trials here need four passes of two views: the teacher
encodes 8 views of every training image, and one of every image of val and test. `--plan` shows
this before anything starts.

With `--set views.teacher=center` the teacher sees the center of each image once, and this one pass
serves all eight trials. The student then gets new views in every epoch, so `views.stored` changes
nothing.

Only built-in recipes are compared, so that this runs with every preset. Both recipes mirror half of
the images. That suits photographs, but not the demo: a mirrored digit is another digit, or none.
So on the demo the numbers show that augmentations matter, not which one is good; its preset uses a
recipe of its own without mirroring. To compare recipes of your own, put them under `views.custom`
in a preset, and their names into the space.

    python sweeps/augmentations.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/augmentations.py --preset cifar10 --data DIR --plan
    python sweeps/augmentations.py --preset cifar10 --data DIR --set views.teacher=center
"""

from beamclip import Sweep, choice, sweep_main

SWEEP = Sweep(
    name="augmentations",
    question="Which augmentation, how strong, and how many stored views?",
    space={
        "views.recipe": choice("weak", "simclr_small"),
        "views.strength": choice(0.5, 1.0),
        "views.stored": choice(1, 2),
    },
)

if __name__ == "__main__":
    sweep_main(SWEEP)
