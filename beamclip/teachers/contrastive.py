"""CLIP's loss where captions repeat."""

import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric loss where several captions are true of an image and several images show what a caption says.

    With CLIP's own one-to-one targets, every repeated digit would count as a mismatch. As in UniCL (Yang et al., CVPR 2022) the
    target is spread evenly over all that is true; rows without any truth in the batch are left out.

    Args:
        logits: scaled cosines, images x captions, [B, C].
        true: which captions are true of which images, bool [B, C].
    """
    return (_one_way(logits, true) + _one_way(logits.T, true.T)) / 2


def _one_way(logits: Tensor, true: Tensor) -> Tensor:
    some = true.any(dim=1)
    targets = true[some].float()
    targets = targets / targets.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits[some], targets)
