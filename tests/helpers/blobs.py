"""Features that are hard enough to tell good probes from poor ones."""

import torch

from beamclip.evaluation import LabeledFeatures


def blobs(count, seed=0, classes=6, width=24, signal=0.5):
    """Badly scaled, off centre, the same classes for every seed."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    features = signal * centres[labels] + torch.randn(count, width, generator=g)
    return features * torch.linspace(0.1, 9, width) + 3, labels


def part(*args, **kwargs):
    features, labels = blobs(*args, **kwargs)
    return LabeledFeatures(features, None, labels)
