"""The parts of a student put together."""

from torch import nn

from beamclip.students.backbones import feature_width, make_backbone
from beamclip.students.stems import use_small_stem
from beamclip.students.student import Spec, Student, has_batch_statistics, make_projector


def assemble(spec: Spec, backbone: nn.Module) -> Student:
    """Change the backbone's stem as the spec says, and set a projector on it, drawn from the CPU's global generator.

    Raises:
        UserError: the backbone can't take images of this size.
    """
    if spec.stem == "small":
        use_small_stem(backbone)
    features = feature_width(backbone, spec.backbone, spec.image_size)
    projector = make_projector(spec.projector, features, spec.projector_width, spec.width, has_batch_statistics(backbone))
    return Student(spec, backbone, projector)


def unfilled(spec: Spec) -> Student:
    """The spec's student with weights drawn from the CPU's global generator.

    Raises:
        UserError: timm does not have the backbone, or it can't take images of this size.
    """
    return assemble(spec, make_backbone(spec.backbone, spec.image_size, pretrained=False))
