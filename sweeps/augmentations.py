"""Which augmentation, how strong, and how many stored views?

The teacher should see the same view of an image as the student, so views cost teacher passes: each
recipe at each strength is a set of views of its own. A store of two views also serves the trials
that want one, so the eight trials here take four passes of two views: 8 teacher images for every
training image, and one for every image of val and test. `--plan` shows that before anything
starts.

With `--set views.teacher=center` the teacher sees the center of each image once, and that one pass
serves all eight trials. Views are then new every epoch, so `views.stored` changes nothing.

Only built-in recipes are compared, so that every preset can run this. Both mirror half of the
images. That suits photographs, but a mirrored digit of the demo is another digit or none. The
demo's own preset uses a recipe without mirroring; the numbers here show what augmentations do to
the demo, not which one is good. To compare recipes of your own, put them under `views.custom` in a
preset and their names into the space.

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
