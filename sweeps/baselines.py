"""How good is each method, on the same images, by the same probe?

A published number comes with other data, another student and another probe. Here every method
trains the same student in the same loop on the same packed images for as many epochs, and is
judged by the same probe. The methods that learn from the teacher share one teacher pass; SimCLR,
SwAV and the supervised baseline need none.

Besides the objective, only what a method requires differs. SimCLR and SwAV see two views of each
image, of the preset's `views.pair_recipe` (with color jitter; `multicrop` is SwAV's own for large
images). SimReg has its head of four layers. `swav_csm` is BeamCLIP's own way: self-supervised
first, then CSM. It starts from the student of `swav` in the same sweep, so it has seen twice as
many images as the others. `cost/device_seconds` shows what each took.

The demo only shows that it runs. In its few minutes SimCLR and SwAV learn to separate scenes, not
digits, and do not beat the untrained student. docs/results.md has results on photographs.

    python sweeps/baselines.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/baselines.py --seeds 3       with intervals over seeds
    python sweeps/baselines.py --preset cifar10 --data DIR --seeds 3
    beamclip report baselines                  an HTML report of it
"""

from beamclip import Sweep, choice, sweep_main

VARIANTS = {
    "csm": {"objective.name": "csm"},
    "simreg": {"objective.name": "simreg", "student.projector": "mlp4"},
    "csm_simreg": {"objective.name": "csm+simreg"},
    "image_queue": {"objective.name": "image_queue"},
    "seed": {"objective.name": "seed"},
    "compress": {"objective.name": "compress"},
    "clip_cid": {"objective.name": "clip_cid"},
    "simclr": {"objective.name": "simclr"},
    "swav": {"objective.name": "swav", "objective.swav.prototypes": 100},
    "swav_csm": {"objective.name": "csm", "student.init": "variant:swav"},
    "supervised": {"objective.name": "supervised"},
}

SWEEP = Sweep(
    name="baselines",
    question="How good is each method, on the same images, by the same probe?",
    variants=VARIANTS,
    space={"variant": choice(*VARIANTS)},
)

if __name__ == "__main__":
    sweep_main(SWEEP)
