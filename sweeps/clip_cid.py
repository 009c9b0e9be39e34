"""How much data can be dropped, how many clusters are best, and do relations within a batch help?

CLIP-CID drops near-duplicate images (43.7 % of LAION-400M). It teaches the student two things: to
which cluster of the teacher's embeddings an image belongs, and how images and texts relate within a
batch. The paper gives neither the number of clusters nor the weights of the losses, so both are
swept here.

To find near-duplicates, the teacher encodes the center of each image once. Probes are always fitted
on all images. `beamclip balance` shows which images would be dropped, and why.

    python sweeps/clip_cid.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/clip_cid.py --preset cifar10 --data DIR
"""

from beamclip import Sweep, choice, sweep_main

SWEEP = Sweep(
    name="clip_cid",
    question="How much data can be dropped, how many clusters are best, and do relations help?",
    variants={
        "clusters": {"objective.name": "clip_cid", "objective.clip_cid.instance_weight": 0.0},
        "instances_too": {"objective.name": "clip_cid"},
    },
    space={
        "variant": choice("clusters", "instances_too"),
        "objective.clip_cid.clusters": choice(20, 100),
        "balance.remove": choice(0.0, 0.2, 0.437),
    },
)

if __name__ == "__main__":
    sweep_main(SWEEP)
