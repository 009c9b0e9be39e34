"""Build the student that a configuration describes, with its initial weights."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import torch
from pyarrow import fs
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from beamclip.config import StudentConfig, UserError
from beamclip.stores.paths import filesystem_of
from beamclip.students.backbones import (
    RGB,
    make_backbone,
    pretrained_normalization,
    supports_small_stem,
)
from beamclip.students.files import TrainingCost, differences, read_student, training_cost_of
from beamclip.students.student import (
    Stem,
    Student,
    StudentSpec,
    assemble_student,
    student_from_spec,
)

SMALL_IMAGE = 64
"""Largest image side in px for which `small_image_stem: auto` adapts the stem."""


def build_student(config: StudentConfig, width: int, seed: int) -> Student:
    """Build a student in training mode, on the CPU, in fp32.

    `config.init` decides the initial weights:

    - `random`: all weights are random, initialized as `weight_init` says.
    - `pretrained`: the backbone has timm's weights, the projector is random. Under
      `small_image_stem: auto` the backbone keeps its own stem. Under `always` a 7×7 first
      convolution is replaced by a random 3×3 one, because its weights don't fit.
    - a path or URL of a student's file: the backbone has the weights and normalization of that
      student, and under `small_image_stem: auto` also its stem. The projector has that student's
      weights if the shapes agree, else it is random.

    The global generators are left as they were.

    Args:
        config: settings of the student.
        width: D, the teacher's embedding width.
        seed: seed of all random weights. The same seed gives the same backbone with any projector.

    Raises:
        UserError: the backbone, its weights or the file don't exist, or don't fit together.
    """
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator: torch.manual_seed would reset the devices' generators too.
        torch.default_generator.manual_seed(seed)
        if _starts_from_file(config):
            return _student_from_file(config, width, _local_file(config.init))
        student = _new_student(config, width)
        if config.init == "random" and config.weight_init == "torch":
            # Seed again, so that the backbone does not depend on the numbers that the projector has
            # used.
            torch.default_generator.manual_seed(seed)
            _reset_parameters(student.backbone)
        return student


def training_cost_of_init(config: StudentConfig) -> TrainingCost:
    """Return the cost of training the student that `init` names, or zero if it names none.

    timm's pretrained weights count as zero.

    Raises:
        UserError: the file is missing or damaged, or the URL can't be fetched.
    """
    if not _starts_from_file(config):
        return TrainingCost()
    return training_cost_of(_local_file(config.init))


def _starts_from_file(config: StudentConfig) -> bool:
    return config.init not in ("random", "pretrained")


def _reset_parameters(module: nn.Module) -> None:
    """Initialize every layer as its torch class does, with the CPU's global generator.

    Scale and shift of norms become 1 and 0.
    """
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def _new_student(config: StudentConfig, width: int) -> Student:
    """Build a student with random or timm's weights."""
    pretrained = config.init == "pretrained"
    backbone = make_backbone(config.backbone, config.image_size, pretrained)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if pretrained:
        mean, std = pretrained_normalization(backbone)
    spec = _spec(config, width, _choose_stem(config, backbone), mean, std)
    return assemble_student(spec, backbone)


def _choose_stem(config: StudentConfig, backbone: nn.Module) -> Stem:
    """Return the stem that `small_image_stem` selects for a new student."""
    supported = supports_small_stem(backbone)
    if config.small_image_stem == "always":
        if not supported:
            raise UserError(
                "student.small_image_stem is always, but only timm's ResNets have one, "
                f"not {config.backbone}; set it to auto"
            )
        return "small"
    if config.small_image_stem == "never":
        return "original"
    # auto: the weights of a pretrained first convolution would be lost with a small stem.
    small_images = config.image_size <= SMALL_IMAGE
    if supported and small_images and config.init == "random":
        return "small"
    return "original"


def _spec(config: StudentConfig, width: int, stem: Stem, mean: RGB, std: RGB) -> StudentSpec:
    return StudentSpec(
        backbone=config.backbone,
        image_size=config.image_size,
        stem=stem,
        width=width,
        projector=config.projector,
        projector_width=config.projector_width,
        mean=mean,
        std=std,
    )


def _student_from_file(config: StudentConfig, width: int, path: Path) -> Student:
    """Build a student with the backbone of a file, and with its projector if the shapes agree."""
    file_spec, tensors = read_student(path)
    _check_same_architecture(config, file_spec, path)
    spec = _spec(config, width, file_spec.stem, file_spec.mean, file_spec.std)
    student = student_from_spec(spec)
    # A projector of another kind or width keeps its random weights. The backbone must fit.
    _load_if_it_fits(student.projector, "projector.", tensors)
    if not _load_if_it_fits(student.backbone, "backbone.", tensors):
        saved = _part_of(tensors, "backbone.")
        advice = f"set it to {file_spec.image_size}"
        if file_spec.image_size == config.image_size:
            advice = "they are damaged, or another version of timm saved them"
        raise UserError(
            f"the weights in student.init {path} were trained at {file_spec.image_size} px and "
            f"don't fit a {config.backbone} at student.image_size {config.image_size}; {advice} "
            f"({differences(saved, student.backbone.state_dict())})"
        )
    return student


def _check_same_architecture(config: StudentConfig, file_spec: StudentSpec, path: Path) -> None:
    """Raise UserError if the student in the file has another backbone or stem."""
    if file_spec.backbone != config.backbone:
        raise UserError(
            f"student.init {path} is a {file_spec.backbone}, "
            f"but student.backbone is {config.backbone}; make them the same"
        )
    # auto takes the stem of the file.
    if config.small_image_stem == "auto":
        return
    configured_stem = "small" if config.small_image_stem == "always" else "original"
    if file_spec.stem != configured_stem:
        raise UserError(
            f"student.init {path} has the {file_spec.stem} stem, "
            f"but student.small_image_stem is {config.small_image_stem}; set it to auto"
        )


def _load_if_it_fits(part: nn.Module, prefix: str, tensors: dict[str, torch.Tensor]) -> bool:
    """Load the tensors whose names start with `prefix` into `part`, if all of them fit.

    Returns:
        True if they were loaded; False, with `part` unchanged, if a name or shape differs.
    """
    saved = _part_of(tensors, prefix)
    expected = part.state_dict()
    if saved.keys() != expected.keys():
        return False
    if any(saved[name].shape != expected[name].shape for name in expected):
        return False
    part.load_state_dict(saved)
    return True


def _part_of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names start with a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _local_file(init: str) -> Path:
    """Return the path of a student's file, after fetching it if `init` is a URL.

    Raises:
        UserError: the URL can't be fetched.
    """
    if "://" not in init:
        return Path(init)
    try:
        return _fetch(init)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"student.init {init} can't be fetched ({error}); check the URL") from None


def _fetch(url: str) -> Path:
    """Fetch a URL with fsspec, or with pyarrow if fsspec lacks the package for this protocol.

    Runs may be kept in a bucket. pyarrow reads buckets without an extra package.
    """
    try:
        # `simplecache` keeps a local copy and returns its path.
        return Path(fsspec.open_local(f"simplecache::{url}"))
    except ImportError as missing:
        try:
            return Path(_fetch_with_pyarrow(url).name, "student.safetensors")
        except UserError:
            # pyarrow does not know the protocol either. The first error names the package to
            # install.
            raise missing from None


@cache
def _fetch_with_pyarrow(url: str) -> TemporaryDirectory[str]:
    """Copy a file to a temporary folder as `student.safetensors`, and return the folder.

    The folder is deleted with the returned object. The cache holds that until the process ends.
    """
    folder = TemporaryDirectory()
    filesystem, path = filesystem_of(url)
    target = str(Path(folder.name, "student.safetensors"))
    fs.copy_files(path, target, source_filesystem=filesystem)
    return folder
