"""Zero-shot classification: predict the class with the most similar anchor."""

import torch.nn.functional as F
from torch import Tensor


def zero_shot_logits(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Return the cosine similarities of images and anchors, fp32 in [-1, 1].

    They are CLIP's logits (arXiv 2103.00020) without its scale, which changes no ranking.

    Args:
        embeddings: image embeddings of any length, [N, D].
        anchors: one text embedding of any length per class, [K, D].

    Returns:
        [N, K].
    """
    return F.normalize(embeddings.float(), dim=-1) @ F.normalize(anchors.float(), dim=-1).T


def zero_shot_predict(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Return the row of the most similar anchor of each image, int64 [N]."""
    return zero_shot_logits(embeddings, anchors).argmax(-1)
