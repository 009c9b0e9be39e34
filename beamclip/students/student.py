"""The parts of a student put together."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beamclip.students.backbones import Triple, feature_width, make_backbone, use_small_stem

# The student: what is trained, and what of it is probed.


@dataclass(frozen=True)
class Spec:
    """All it takes to build the same student again."""

    backbone: str
    """timm's name."""
    image_size: int
    """Side in px of the images it is made for."""
    stem: Literal["original", "small"]
    width: int
    """D, the embedding's width: the teacher's."""
    projector: Literal["linear", "mlp", "mlp4"]
    projector_width: int
    """Hidden width of the `mlp` projector; unused by the others."""
    mean: Triple
    std: Triple


class Student(nn.Module):
    """A backbone and a projector.

    Args:
        spec: what it was built from.
        backbone: images [B, 3, S, S] -> pooled features [B, F].
        projector: [B, F] -> [B, D].
    """

    def __init__(self, spec: Spec, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.projector = projector

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation, RGB in [0, 1], that its images are normalised with."""
        return self.spec.mean, self.spec.std

    def features(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> backbone features [B, F]: what every probe sees."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> embeddings [B, D], of any length."""
        embeddings: Tensor = self.projector(self.features(images))
        return embeddings


def has_batch_statistics(module: nn.Module) -> bool:
    """True where an image's output depends on the rest of its batch while training."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def make_projector(
    kind: str, features: int, hidden: int, width: int, batch_norm: bool
) -> nn.Module:
    """F -> D: `linear`, `mlp` = Linear, BatchNorm, ReLU, Linear (SimCLR's head, arXiv 2002.05709), or `mlp4` (SimReg's, 2201.05131):
    two such, of hidden width 2F, of which the first gives F.

    `batch_norm` should be what the backbone has. With a backbone free of batch statistics the projector goes without too, so
    that the student gives the same embeddings whether one worker sees the whole batch or two see half of it each.
    """
    if kind == "linear":
        return nn.Linear(features, width)
    if kind == "mlp4":
        first, second = (
            _two_layers(features, 2 * features, out, batch_norm) for out in (features, width)
        )
        return nn.Sequential(*first, *second)
    return nn.Sequential(*_two_layers(features, hidden, width, batch_norm))


def _two_layers(features: int, hidden: int, width: int, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    return [
        nn.Linear(features, hidden, bias=not batch_norm),
        *norm,
        nn.ReLU(),
        nn.Linear(hidden, width),
    ]


def assemble(spec: Spec, backbone: nn.Module) -> Student:
    """Change the backbone's stem as the spec says, and set a projector on it, drawn from the CPU's global generator.

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


def unfilled(spec: Spec) -> Student:
    """The spec's student with weights drawn from the CPU's global generator.

    Raises:
        UserError: timm does not have the backbone, or it can't take images of this size.
    """
    return assemble(spec, make_backbone(spec.backbone, spec.image_size, pretrained=False))
