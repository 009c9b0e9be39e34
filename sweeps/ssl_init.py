"""Does a self-supervised start help a student of CSM?

BeamCLIP's student is first trained by self-supervision; the paper says so in the caption of a figure, and it is easy to miss. Here CSM
starts from nothing, from SimCLR and from SwAV, each of which is trained in the same sweep, once a seed. A start costs images: `scratch`
sees half as many as the others, so look at the plot of accuracy against cost before saying that a start has helped, or run
`python sweeps/csm_temp.py --set optimizer.epochs=…` for as long as both parts together.

Any run will do as a start, also one of another sweep: `--set student.init=run:ID` with the id that MLflow shows, or a file.

    python sweeps/ssl_init.py                                  the embedded demo: no network, no GPU, minutes
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
