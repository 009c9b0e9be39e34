"""Does self-supervised pretraining help a student of CSM?

BeamCLIP's student is first trained by self-supervision; the paper says so in the caption of a
figure. Here CSM starts from random weights, from a student of SimCLR and from a student of SwAV.
Both are trained in the same sweep, once per seed.

Pretraining costs images: `scratch` sees half as many as the pretrained students. So look at the
plot of accuracy against cost before you conclude that pretraining helps. Or train CSM alone for as
many epochs as both parts take together: `python sweeps/csm_temp.py --set optimizer.epochs=…`.

A student may start from any other run as well, even of another sweep: `--set student.init=run:ID`
with the id that MLflow shows. It may also be a file.

    python sweeps/ssl_init.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/ssl_init.py --preset cifar10 --data DIR --seeds 3
"""

from beamclip import Sweep, choice, sweep_main

VARIANTS = {
    "simclr": {"objective.name": "simclr"},
    # SwAV's default of 3,000 prototypes is for ImageNet. A batch with fewer images than prototypes
    # can't use them equally, and a batch of the demo has 128 images.
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
