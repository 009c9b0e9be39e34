"""Stems for small images."""

from timm.models.resnet import ResNet
from torch import nn


def has_small_stem(backbone: nn.Module) -> bool:
    """True where `use_small_stem` knows this family: timm's ResNets and what derives from them (ResNeXt, SE, D, RS…)."""
    return isinstance(backbone, ResNet)


def use_small_stem(backbone: nn.Module) -> None:
    """Make a ResNet's stem fit for small images, in place: it then downsamples 32 px by 8 or 16 instead of by 32.

    A single 7×7 stride-2 convolution becomes 3×3 stride-1 and the max-pool goes, as in SimCLR (arXiv 2002.05709, B.9) and
    the MoCo CIFAR demo. The new convolution is drawn as timm draws them, from the global generator.

    A deep stem (`resnet18d`, `test_resnet`: three 3×3) loses only its max-pool and keeps all its weights. Running it at stride 1
    too costs 4 times as much again: `test_resnet` at 32 px trains 2311 img/s as it is, 1051 without the max-pool and 276 at
    stride 1 without it, on one CPU core.
    """
    first = backbone.conv1
    if isinstance(first, nn.Conv2d):
        small = nn.Conv2d(first.in_channels, first.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        backbone.conv1 = small
    backbone.maxpool = nn.Identity()
