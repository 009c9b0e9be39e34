"""Build features on which good probes and poor probes get different accuracies."""

import torch

from beamclip.evaluation import LabeledFeatures


def blobs(count, seed=0, classes=6, width=24, signal=0.5):
    """Return badly scaled, uncentered features and labels, with the same classes for every seed."""
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    features = signal * centers[labels] + torch.randn(count, width, generator=generator)
    return features * torch.linspace(0.1, 9, width) + 3, labels


def part(*args, **kwargs):
    """Return the same as `LabeledFeatures`."""
    features, labels = blobs(*args, **kwargs)
    return LabeledFeatures(features, None, labels)
