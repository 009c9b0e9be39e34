"""Measure the zero-shot accuracy of a teacher from its stored embeddings."""

from typing import NamedTuple

import torch

from beamclip.anchors import AnchorSet
from beamclip.data import PackedImages
from beamclip.data.packed import Ids
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.teachers import Embeddings


class ZeroShotAccuracy(NamedTuple):
    """Top-1 accuracy and the lower end of its confidence interval, both in percent.

    Attributes:
        top1: top-1 accuracy.
        low: lower end of its 95 % Wilson interval.
    """

    top1: float
    low: float


def teacher_accuracy(
    embeddings: Embeddings, anchors: AnchorSet, packed: PackedImages, ids: Ids
) -> ZeroShotAccuracy:
    """Return the teacher's zero-shot accuracy on the canonical views of these samples.

    Args:
        embeddings: a store that holds the canonical views.
        anchors: the same teacher's anchors of the data's own classes.
        packed: the packed images, whose labels are used.
        ids: sample ids, [N].

    Raises:
        ValueError: a sample is not in the embedding store.
    """
    # The canonical view is the only view of its store, and so has id 0.
    images = torch.from_numpy(embeddings.gather(ids, 0))
    labels = torch.from_numpy(packed.labels[ids])
    top1 = accuracy(zero_shot_logits(images, anchors.embeddings), labels)
    low, _ = wilson_interval(top1, len(ids))
    return ZeroShotAccuracy(top1, low)
