"""Does self-supervised pretraining help a student of CSM?

BeamCLIP's student is first trained by self-supervision; the paper says so in the caption of a
figure. Here CSM starts from random weights, from SimCLR and from SwAV, both trained in the same
sweep, once a seed. Pretraining costs images: `scratch` sees half as many as the others. So look at
the plot of accuracy against cost before concluding that it helps, or run `python
sweeps/csm_temp.py --set optimizer.epochs=…` for as long as both parts together.

Any run can be the start, also one of another sweep: `--set student.init=run:ID` with the id that
MLflow shows, or a file.

    python sweeps/ssl_init.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/ssl_init.py --preset cifar10 --data DIR --seeds 3
"""

from beamclip import Sweep, choice, sweep_main

VARIANTS = {
    "simclr": {"objective.name": "simclr"},
    "swav": {"objective.name": "swav", "objective.swav.prototypes": 100},
    "scratch": {"objective.name": "csm"},
    "simclr_csm": {"objective.name": "csm", "student.init": "variant:simclr"},
    "swav_csm": {"objective.name": "csm", "student.init": "variant:swav"},
}

SWEEP = Sweep(
    name="ssl_init",
    question="Does a self-supervised start help a student of CSM?",
    variants=VARIANTS,
    space={"variant": choice(*VARIANTS)},
)

if __name__ == "__main__":
    sweep_main(SWEEP)
