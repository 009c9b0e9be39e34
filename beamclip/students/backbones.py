"""Build timm backbones by name, and adapt the stem of a ResNet to small images."""

from pathlib import Path

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from beamclip.config import UserError, nearest
from beamclip.config.errors import first_line, mute_loggers

RGB = tuple[float, float, float]
"""One value per channel: red, green, blue."""


def check_backbone(name: str) -> None:
    """Raise UserError if timm has no such backbone. Builds nothing.

    Args:
        name: timm's name, with or without a weights tag.

    Raises:
        UserError: timm does not know the model or the weights tag; the message suggests close
            names.
    """
    # `is_model` raises an error of its own for some names with a slash.
    if "/" in name or not timm.is_model(name):
        # Of a hub's `OWNER/NAME`, the name may be close to one of timm's.
        hint = nearest(name.rsplit("/", 1)[-1], timm.list_models())
        if Path(name).is_file():
            hint = (
                ", but a file; to start from a student's weights, name their file in student.init"
            )
        raise UserError(f"student.backbone {name} is not a timm model{hint}")
    # is_model ignores the tag after the dot, as in resnet18.a1_in1k.
    architecture, dot, _ = name.partition(".")
    if not dot:
        return
    tagged_names = timm.list_pretrained(f"{architecture}.*")
    if name not in tagged_names:
        raise UserError(
            f"student.backbone {name} names weights that timm does not have"
            f"{nearest(name, tagged_names)}"
        )


def make_backbone(name: str, image_size: int, pretrained: bool) -> nn.Module:
    """Build a timm model without its classifier: [B, 3, S, S] -> pooled features [B, F].

    Args:
        name: timm's name.
        image_size: S in px. Backbones with a fixed input size (ViTs) are built for this size, and
            timm resamples their pretrained position embeddings.
        pretrained: load timm's weights, downloading them if needed.

    Raises:
        UserError: timm has no such backbone or no weights for it, the weights can't be fetched, or
            the backbone can't take images of this size.
    """
    check_backbone(name)
    if pretrained and not timm.is_model_pretrained(name):
        raise UserError(
            f"student.init is pretrained, but timm has no weights for {name}; "
            "set student.init=random or choose another backbone"
        )
    pretrained_cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    # Other models have no parameter `img_size` and take any size.
    size_argument = {}
    if getattr(pretrained_cfg, "fixed_input_size", False):
        size_argument = {"img_size": image_size}
    if pretrained:
        return _create_pretrained(name, size_argument)
    return _create_random(name, image_size, size_argument)


def _create_random(name: str, image_size: int, size_argument: dict[str, int]) -> nn.Module:
    try:
        backbone: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, **size_argument
        )
    # timm does not check the size itself: these come from the arithmetic in its models.
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _unsupported_size(name, image_size, error) from None
    return backbone


def _create_pretrained(name: str, size_argument: dict[str, int]) -> nn.Module:
    try:
        with mute_loggers("huggingface_hub", "timm"):
            backbone: nn.Module = timm.create_model(
                name, pretrained=True, num_classes=0, **size_argument
            )
    except Exception as error:
        # Any exception: the hub's client passes on what its HTTP library raises, and that changes
        # between versions.
        raise UserError(
            f"the pretrained weights of student.backbone {name} can't be fetched "
            f"({_reason(error)}); connect to the network, fill the Hugging Face cache beforehand, "
            "or use random weights (student.init=random; for beamclip evaluate: --untrained)"
        ) from None
    return backbone


@torch.inference_mode()
def feature_width(backbone: nn.Module, name: str, image_size: int) -> int:
    """Return F, the number of features of the backbone.

    It is measured on one image of zeros, because timm's `num_features` is not always the width of
    the output.

    Args:
        backbone: built by `make_backbone`.
        name: timm's name, for messages.
        image_size: S in px.

    Raises:
        UserError: the backbone can't take images of this size, or does not return one vector per
            image.
    """
    training = backbone.training
    try:
        # In evaluation mode, so that the image does not change batch norm's running statistics.
        shape = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unsupported_size(name, image_size, error) from None
    finally:
        backbone.train(training)
    if len(shape) != 2:
        raise UserError(
            f"student.backbone {name} returns features of shape {tuple(shape)}, "
            "not one vector per image; choose another backbone"
        )
    return int(shape[1])


def pretrained_normalization(backbone: nn.Module) -> tuple[RGB, RGB]:
    """Return the RGB mean and std that the pretrained weights expect, in 0-1.

    They come from timm's data config.
    """
    data_config = timm.data.resolve_model_data_config(backbone)
    return tuple(data_config["mean"]), tuple(data_config["std"])


def supports_small_stem(backbone: nn.Module) -> bool:
    """Return True if `use_small_stem` supports this backbone.

    Supported are timm's ResNets and the models derived from them (ResNeXt, SE, D, RS…).
    """
    return isinstance(backbone, ResNet)


def use_small_stem(backbone: nn.Module) -> None:
    """Adapt a ResNet's stem to small images, in place.

    The ResNet then downsamples by 8 (plain stem) or 16 (deep stem) instead of by 32. A single 7×7
    stride-2 convolution is replaced by 3×3 stride-1 and the max-pool is removed, as in SimCLR
    (arXiv 2002.05709, B.9) and the MoCo CIFAR demo. The new convolution is initialized as timm
    does, from torch's global generator.

    A deep stem (three 3×3 convolutions, as in `resnet18d` and `test_resnet`) only loses its
    max-pool and keeps all its weights. With stride 1 as well, it would be 4 times slower again. For
    example, `test_resnet` at 32 px trains on one CPU core at 2311 img/s unchanged, at 1051 img/s
    without the max-pool, and at 276 img/s with stride 1 and without the max-pool.
    """
    conv = backbone.conv1
    # In a deep stem, conv1 is an nn.Sequential.
    if isinstance(conv, nn.Conv2d):
        small_conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, kernel_size=3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(small_conv.weight, mode="fan_out", nonlinearity="relu")
        backbone.conv1 = small_conv
    backbone.maxpool = nn.Identity()


def _unsupported_size(name: str, image_size: int, error: Exception) -> UserError:
    return UserError(
        f"student.backbone {name} can't take images of student.image_size {image_size} px "
        f"({_reason(error)}); change one of the two"
    )


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(". ")
