"""Classify zero-shot: predict the class whose text embedding (anchor) is most similar."""

import torch.nn.functional as F
from torch import Tensor


def zero_shot_logits(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Return the cosine similarities of images and anchors.

    They are CLIP's logits (arXiv 2103.00020) without its scale, which changes no ranking.

    Args:
        embeddings: image embeddings, normalized or not, [N, D].
        anchors: one text embedding per class, normalized or not, [K, D].

    Returns:
        fp32 [N, K] in [-1, 1].
    """
    return F.normalize(embeddings.float(), dim=-1) @ F.normalize(anchors.float(), dim=-1).T


def zero_shot_predict(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Return the row of the most similar anchor for each image, int64 [N].

    The arguments are the same as of `zero_shot_logits`.
    """
    return zero_shot_logits(embeddings, anchors).argmax(-1)
