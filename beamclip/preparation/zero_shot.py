"""Measure the zero-shot accuracy of a teacher from its stored embeddings."""

from typing import NamedTuple

import torch

from beamclip.anchors import AnchorSet
from beamclip.data import PackedImages
from beamclip.data.packed import Ids
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.teachers import Embeddings


class ZeroShotAccuracy(NamedTuple):
    """Top-1 accuracy in per cent.

    Attributes:
        top1: accuracy on the images.
        low: lower end of its 95 % (Wilson) interval.
    """

    top1: float
    low: float


def teacher_accuracy(
    embeddings: Embeddings, anchors: AnchorSet, packed: PackedImages, ids: Ids
) -> ZeroShotAccuracy:
    """Return the teacher's zero-shot accuracy on the canonical views of these samples.

    Args:
        embeddings: a store that holds the canonical views.
        anchors: of the data's own classes, by the same teacher.
        packed: the images, for their labels.
        ids: the samples.
    """
    logits = zero_shot_logits(torch.from_numpy(embeddings.gather(ids, 0)), anchors.embeddings)
    top1 = accuracy(logits, torch.from_numpy(packed.labels[ids]))
    return ZeroShotAccuracy(top1, wilson_interval(top1, len(ids))[0])
