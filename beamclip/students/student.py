"""The student model (a backbone and a projector), and the spec from which it can be rebuilt."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beamclip.students.backbones import RGB, feature_width, make_backbone, use_small_stem

Stem = Literal["original", "small"]
ProjectorKind = Literal["linear", "mlp", "mlp4"]


@dataclass(frozen=True)
class StudentSpec:
    """All that is needed to build a student of the same architecture.

    The field names are the keys in the header of a student's file.

    Attributes:
        backbone: timm's name.
        image_size: side of the input images, in px.
        stem: `small` if a ResNet's stem was adapted to small images.
        width: D, the width of the student's and the teacher's embeddings.
        projector: kind of projector, see `make_projector`.
        projector_width: hidden width of the `mlp` projector; unused by the other kinds.
        mean: RGB mean that images are normalized with, in 0-1.
        std: RGB standard deviation that images are normalized with, in 0-1.
    """

    backbone: str
    image_size: int
    stem: Stem
    width: int
    projector: ProjectorKind
    projector_width: int
    mean: RGB
    std: RGB


class Student(nn.Module):
    """A backbone, whose features are probed, and a projector into the teacher's space.

    Args:
        spec: spec that this student was built from.
        backbone: images [B, 3, S, S] -> pooled features [B, F].
        projector: features [B, F] -> embeddings [B, D].
    """

    def __init__(self, spec: StudentSpec, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.projector = projector

    @property
    def normalization(self) -> tuple[RGB, RGB]:
        """Return the RGB mean and standard deviation that images are normalized with, in 0-1."""
        return self.spec.mean, self.spec.std

    def features(self, images: Tensor) -> Tensor:
        """Return the features [B, F] that are probed, of normalized images [B, 3, S, S]."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings [B, D], not of unit length, of normalized images [B, 3, S, S]."""
        embeddings: Tensor = self.projector(self.features(images))
        return embeddings


def has_batch_statistics(module: nn.Module) -> bool:
    """Return True if an image's output depends on the rest of its batch during training."""
    # The base class of torch's and timm's batch norms, synchronized ones included.
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def make_projector(
    kind: str, features: int, hidden: int, width: int, batch_norm: bool
) -> nn.Module:
    """Build a projector from F features to D embedding dimensions.

    Args:
        kind: `linear`: one Linear. `mlp`: Linear, BatchNorm, ReLU, Linear, as in SimCLR
            (arXiv 2002.05709). `mlp4`: two such MLPs in a row with hidden width 2F, the first from
            F to F, as in SimReg (arXiv 2201.05131).
        features: F.
        hidden: hidden width of `mlp`.
        width: D.
        batch_norm: use BatchNorm. Pass True only if the backbone has batch statistics as well.
            Without them, the embeddings are the same whether one worker sees the whole batch or
            two workers see half of it each, and the projector must not change that.
    """
    if kind == "linear":
        return nn.Linear(features, width)
    if kind == "mlp4":
        first = _two_layers(features, 2 * features, features, batch_norm)
        second = _two_layers(features, 2 * features, width, batch_norm)
        return nn.Sequential(*first, *second)
    return nn.Sequential(*_two_layers(features, hidden, width, batch_norm))


def _two_layers(features: int, hidden: int, width: int, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    # BatchNorm subtracts the mean, and with it any bias before it.
    return [
        nn.Linear(features, hidden, bias=not batch_norm),
        *norm,
        nn.ReLU(),
        nn.Linear(hidden, width),
    ]


def assemble_student(spec: StudentSpec, backbone: nn.Module) -> Student:
    """Build a student from a backbone: adapt its stem as the spec says and add a new projector.

    The new weights are drawn from the CPU's global generator.

    Raises:
        UserError: the backbone can't take images of this size.
    """
    if spec.stem == "small":
        use_small_stem(backbone)
    features = feature_width(backbone, spec.backbone, spec.image_size)
    projector = make_projector(
        spec.projector, features, spec.projector_width, spec.width, has_batch_statistics(backbone)
    )
    return Student(spec, backbone, projector)


def student_from_spec(spec: StudentSpec) -> Student:
    """Build a student with random weights, drawn from the CPU's global generator.

    Raises:
        UserError: timm does not have the backbone, or it can't take images of this size.
    """
    backbone = make_backbone(spec.backbone, spec.image_size, pretrained=False)
    return assemble_student(spec, backbone)
