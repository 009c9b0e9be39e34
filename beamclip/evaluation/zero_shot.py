"""Zero-shot classification: the class whose anchor is nearest."""

import torch.nn.functional as F
from torch import Tensor


def zero_shot_logits(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Cosine similarities in fp32, [N, D] x [K, D] -> [N, K] in [-1, 1] (CLIP, arXiv 2103.00020; its scale changes no ranking)."""
    return F.normalize(embeddings.float(), dim=-1) @ F.normalize(anchors.float(), dim=-1).T


def zero_shot_predict(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """The nearest anchor's row, int64 [N]."""
    return zero_shot_logits(embeddings, anchors).argmax(-1)
