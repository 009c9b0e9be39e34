"""Stems for small images."""

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from beamclip.config import UserError, nearest
from beamclip.config.errors import mute_loggers

Triple = tuple[float, float, float]


# timm backbones by name.


def check_backbone(name: str) -> None:
    """See that timm has this backbone; nothing is built.

    Raises:
        UserError: it has not, or not with this weights tag; near names are given.
    """
    if not timm.is_model(name):
        raise UserError(
            f"student.backbone {name} is not a timm model{nearest(name, timm.list_models())}"
        )
    architecture, dot, _ = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*") if dot else [name]
    if name not in tagged:
        raise UserError(
            f"student.backbone {name} names weights that timm does not have{nearest(name, tagged)}"
        )


def make_backbone(name: str, image_size: int, pretrained: bool) -> nn.Module:
    """A timm model without its classifier: images [B, 3, S, S] -> pooled features [B, F].

    Args:
        name: timm's name.
        image_size: S in px. Backbones of a fixed size (ViTs) are built for it; timm resamples pretrained position embeddings.
        pretrained: fetch timm's weights.

    Raises:
        UserError: no such backbone, it has no weights or they can't be fetched, or it can't take images of this size.
    """
    check_backbone(name)
    if pretrained and not timm.is_model_pretrained(name):
        raise UserError(
            f"student.init is pretrained, but timm has no weights for {name}; set student.init=random or another backbone"
        )
    facts = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    size = {"img_size": image_size} if getattr(facts, "fixed_input_size", False) else {}
    return _fetch(name, size) if pretrained else _create(name, image_size, size)


def _create(name: str, image_size: int, size: dict[str, int]) -> nn.Module:
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _wrong_size(name, image_size, error) from None
    return backbone


def _fetch(name: str, size: dict[str, int]) -> nn.Module:
    try:
        with mute_loggers("huggingface_hub", "timm"):
            backbone: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **size)
    except Exception as error:  # the hub's client raises whatever its HTTP library does, and that changes between versions
        raise UserError(
            f"the pretrained weights of student.backbone {name} can't be fetched ({_first_line(error)}); "
            "connect to the network, fill the Hugging Face cache beforehand, or take random weights (student.init=random; of evaluate, "
            "--untrained)"
        ) from None
    return backbone


@torch.inference_mode()
def feature_width(backbone: nn.Module, name: str, image_size: int) -> int:
    """F, measured on one black image, since timm's `num_features` is not always what comes out.

    Raises:
        UserError: the backbone can't take images of this size.
    """
    training = backbone.training
    try:
        shape = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(name, image_size, error) from None
    finally:
        backbone.train(training)
    if len(shape) != 2:
        raise UserError(
            f"student.backbone {name} gives features of shape {tuple(shape)}, not one vector an image; choose another backbone"
        )
    return int(shape[1])


def pretrained_normalisation(backbone: nn.Module) -> tuple[Triple, Triple]:
    """Mean and standard deviation that the backbone's pretrained weights expect (timm's data config)."""
    facts = timm.data.resolve_model_data_config(backbone)
    return tuple(facts["mean"]), tuple(facts["std"])


def _wrong_size(name: str, image_size: int, error: Exception) -> UserError:
    reason = _first_line(error)
    return UserError(
        f"student.backbone {name} can't take images of student.image_size {image_size} px ({reason}); change one of the two"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


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
        small = nn.Conv2d(
            first.in_channels, first.out_channels, kernel_size=3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        backbone.conv1 = small
    backbone.maxpool = nn.Identity()
