"""From a config's names to objectives. The only place that knows them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from beamclip.config import ObjectiveConfig
from beamclip.objectives.csm import CrossModalSimilarityMatching
from beamclip.objectives.objective import Objective


@dataclass(frozen=True)
class Material:
    """What objectives are built of, beside their config.

    Attributes:
        features: F, the width of the student's features.
        width: D, of its embeddings.
        train_images: how many images it is trained on.
        classes: how many classes they have.
        anchors: of each teacher, [K, D_m]; the first ones are the student's too.
        temperatures: each teacher's own τ_T, None for the objective's.
        centres: of the clusters, [clusters, D], unit length.
    """

    features: int
    width: int
    train_images: int
    classes: int
    anchors: Sequence[Tensor] = ()
    temperatures: Sequence[float | None] = ()
    centres: Tensor | None = None


def build_objective(config: ObjectiveConfig, material: Material) -> Objective:
    """The objective a config names.

    Raises:
        UserError: a setting that the data can't meet, such as a queue longer than there are images.
    """
    return _BUILDERS[config.name](config, material)


def _csm(config: ObjectiveConfig, material: Material) -> Objective:
    own = list(material.temperatures) or [None] * len(material.anchors)
    temperatures = [temperature or config.teacher_temperature for temperature in own]
    return CrossModalSimilarityMatching(material.anchors, temperatures, config.student_temperature)


_BUILDERS: dict[str, Callable[[ObjectiveConfig, Material], Objective]] = {"csm": _csm}
