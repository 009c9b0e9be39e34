"""How good is each method, on the same images, by the same probe?

Published numbers differ in data, student and probe. Here every method trains the same student in
the same loop, on the same packed images and for the same number of epochs, and is evaluated by the
same probe. The methods that learn from the teacher share one teacher pass. SimCLR, SwAV and the
supervised baseline need none.

Apart from the objective, methods only differ in what they require:

- SimCLR and SwAV see two views of each image, drawn from the preset's `views.pair_recipe`, which
  has color jitter. (For large images, `multicrop` is SwAV's own recipe.)
- SimReg has its projector of four layers.
- `swav_csm` trains as BeamCLIP does: first by self-supervision, then by CSM. It starts from the
  student of `swav` in the same sweep, so it sees twice as many images as the others.

`cost/device_seconds` shows the time each method took.

On the demo this only shows that everything runs. In its few minutes SimCLR and SwAV learn to
separate scenes, not digits, and do not beat the untrained student. docs/results.md has results on
photographs.

    python sweeps/baselines.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/baselines.py --seeds 3       with intervals over seeds
    python sweeps/baselines.py --preset cifar10 --data DIR --seeds 3
    beamclip report baselines                  write an HTML report of the sweep
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
    # SwAV's default of 3,000 prototypes is for ImageNet. A batch with fewer images than prototypes
    # can't use them equally, and a batch of the demo has 128 images.
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
