"""From the configuration to a student with its first weights."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import fsspec
import torch
from pyarrow import fs
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from beamclip.config import StudentConfig, UserError
from beamclip.stores.paths import filesystem_of
from beamclip.students.backbones import (
    Triple,
    has_small_stem,
    make_backbone,
    pretrained_normalisation,
)
from beamclip.students.files import TrainingCost, read_student, spent_on
from beamclip.students.student import Spec, Student, assemble, unfilled

SMALL_IMAGE = 64
"""Up to this side in px, `small_image_stem: auto` changes the stem."""

Stem = Literal["original", "small"]


def build_student(config: StudentConfig, width: int, seed: int) -> Student:
    """A student in training mode, on the CPU, in fp32.

    Args:
        config: `init` decides the first weights:
            `random`: drawn from the seed, in the way that `drawn` says.
            `pretrained`: the backbone is timm's, with its own stem under `small_image_stem: auto`; under `always` a 7×7 first
            convolution is replaced by a random 3×3 one, since its weights can't be carried over.
            a path or URL: the backbone of that student, with its stem under `auto` and its normalisation; its projector too where
            the shapes agree, else the projector is drawn from the seed.
        width: D, the teacher's embedding width.
        seed: of everything drawn. The global generators stay as they were; the same seed gives the same backbone under any projector.

    Raises:
        UserError: the backbone, its weights or the file don't exist or don't fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            seed
        )  # the CPU's alone: torch.manual_seed would reset the devices' generators too
        if config.init in ("random", "pretrained"):
            student = _fresh(config, width)
            if config.init == "random" and config.drawn == "torch":
                torch.default_generator.manual_seed(
                    seed
                )  # again: whatever projector there is must not matter
                redraw(student.backbone)
            return student
        return _from_file(config, width, _here(config.init))


def redraw(module: nn.Module) -> None:
    """Draw every layer's weights as torch does where the layer is made, from the CPU's global generator; norms are the identity."""
    for layer in module.modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()


def spent_before(config: StudentConfig) -> TrainingCost:
    """What it took to train the student that this one starts from; nothing where it starts by itself or from timm's weights."""
    return (
        TrainingCost() if config.init in ("random", "pretrained") else spent_on(_here(config.init))
    )


def _fresh(config: StudentConfig, width: int) -> Student:
    pretrained = config.init == "pretrained"
    backbone = make_backbone(config.backbone, config.image_size, pretrained)
    normalisation = (
        pretrained_normalisation(backbone)
        if pretrained
        else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return assemble(_spec(config, width, _stem(config, backbone), normalisation), backbone)


def _stem(config: StudentConfig, backbone: nn.Module) -> Stem:
    known, wanted = has_small_stem(backbone), config.small_image_stem
    if wanted == "always" and not known:
        raise UserError(
            f"student.small_image_stem is always, but only timm's ResNets have one, not {config.backbone}; set it to auto"
        )
    fitting = known and config.image_size <= SMALL_IMAGE and config.init == "random"
    return "small" if wanted == "always" or (wanted == "auto" and fitting) else "original"


def _spec(
    config: StudentConfig, width: int, stem: Stem, normalisation: tuple[Triple, Triple]
) -> Spec:
    return Spec(
        config.backbone,
        config.image_size,
        stem,
        width,
        config.projector,
        config.projector_width,
        *normalisation,
    )


def _from_file(config: StudentConfig, width: int, path: Path) -> Student:
    there, tensors = read_student(path)
    _check_same_kind(config, there, path)
    student = unfilled(_spec(config, width, there.stem, (there.mean, there.std)))
    _load_part(student.projector, "projector.", tensors)
    if not _load_part(student.backbone, "backbone.", tensors):
        raise UserError(
            f"the weights in student.init {path} were trained at {there.image_size} px and don't fit a {config.backbone} "
            f"at student.image_size {config.image_size}; set it to {there.image_size}"
        )
    return student


def _here(init: str) -> Path:
    """A local path of a file; one behind a URL is fetched."""
    if "://" not in init:
        return Path(init)
    try:
        return _fetched(init)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"student.init {init} can't be fetched ({error}); check the URL") from None


def _fetched(url: str) -> Path:
    try:
        return Path(fsspec.open_local(f"simplecache::{url}"))
    except ImportError as missing:  # where runs are kept, pyarrow reads without such a package
        try:
            return Path(_copied(url).name, "student.safetensors")
        except UserError:
            raise missing from None


@cache
def _copied(url: str) -> TemporaryDirectory[str]:
    """A folder with the file, until this process ends."""
    folder = TemporaryDirectory()
    filesystem, path = filesystem_of(url)
    fs.copy_files(path, str(Path(folder.name, "student.safetensors")), source_filesystem=filesystem)
    return folder


def _check_same_kind(config: StudentConfig, there: Spec, path: Path) -> None:
    if there.backbone != config.backbone:
        raise UserError(
            f"student.init {path} is a {there.backbone}, but student.backbone is {config.backbone}; make them the same"
        )
    wanted = config.small_image_stem
    if wanted != "auto" and (wanted == "always") != (there.stem == "small"):
        raise UserError(
            f"student.init {path} has the {there.stem} stem, but student.small_image_stem is {wanted}; set it to auto"
        )


def _load_part(part: nn.Module, prefix: str, tensors: dict[str, torch.Tensor]) -> bool:
    """Load all of a part's tensors, or none where a name or shape differs."""
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    wanted = part.state_dict()
    fits = found.keys() == wanted.keys() and all(
        found[name].shape == wanted[name].shape for name in wanted
    )
    if fits:
        part.load_state_dict(found)
    return fits
