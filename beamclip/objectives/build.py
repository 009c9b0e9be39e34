"""From a config's names to objectives. The only place that knows them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from beamclip.config import ObjectiveConfig, QueueConfig, UserError
from beamclip.objectives.base import Objective, WeightedSum
from beamclip.objectives.clip_cid import ClusterInstanceDiscrimination
from beamclip.objectives.compress import Compress
from beamclip.objectives.csm import CrossModalSimilarityMatching
from beamclip.objectives.feature import FeatureRegression
from beamclip.objectives.image_queue import ImageQueue
from beamclip.objectives.queue import QueueDistillation, queue_length
from beamclip.objectives.seed import Seed
from beamclip.objectives.simclr import SimCLR
from beamclip.objectives.simreg import SimReg
from beamclip.objectives.supervised import Supervised
from beamclip.objectives.swav import SwAV


@dataclass(frozen=True)
class LossContext:
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


def build_objective(config: ObjectiveConfig, material: LossContext) -> Objective:
    """The objective a config names, or the weighted sum of those it names.

    Raises:
        UserError: a setting that the data can't meet, such as a queue longer than there are images.
    """
    built = {name: _BUILDERS[name](config, material) for name in config.parts}
    return WeightedSum(built, config.weights) if len(built) > 1 else built[config.name]


def _csm(config: ObjectiveConfig, material: LossContext) -> Objective:
    own = list(material.temperatures) or [None] * len(material.anchors)
    temperatures = [temperature or config.teacher_temperature for temperature in own]
    return CrossModalSimilarityMatching(material.anchors, temperatures, config.student_temperature)


def _over_queue(
    kind: type[QueueDistillation], name: str, authors: int
) -> Callable[[ObjectiveConfig, LossContext], Objective]:
    """How an objective over a queue is built; authors: the length of theirs."""

    def build(config: ObjectiveConfig, material: LossContext) -> Objective:
        own: QueueConfig = getattr(config, name)
        length = queue_length(name, own.queue, authors, material.train_images)
        return kind(length, material.width, own.teacher_temperature, own.student_temperature)

    return build


def _clip_cid(config: ObjectiveConfig, material: LossContext) -> Objective:
    assert material.centres is not None
    return ClusterInstanceDiscrimination(config.clip_cid, material.centres, material.anchors[0])


def _swav(config: ObjectiveConfig, material: LossContext) -> Objective:
    if config.swav.queue > material.train_images:
        raise UserError(
            f"objective.swav.queue is {config.swav.queue}, but there are {material.train_images} training images; "
            f"give {material.train_images} or fewer, or 0 for none"
        )
    return SwAV(material.features, config.swav)


def _supervised(config: ObjectiveConfig, material: LossContext) -> Objective:
    if material.classes < 2:
        raise UserError(
            "objective.name supervised tells classes apart, but the training images have only one; give images of two classes "
            "or more, or choose another objective"
        )
    return Supervised(material.features, material.classes, config.supervised)


_BUILDERS: dict[str, Callable[[ObjectiveConfig, LossContext], Objective]] = {
    "csm": _csm,
    "feature": lambda config, material: FeatureRegression(),
    "simreg": lambda config, material: SimReg(),
    "seed": _over_queue(Seed, "seed", authors=65_536),
    "compress": _over_queue(Compress, "compress", authors=128_000),
    "image_queue": _over_queue(ImageQueue, "image_queue", authors=8_192),
    "clip_cid": _clip_cid,
    "simclr": lambda config, material: SimCLR(material.features, config.simclr),
    "swav": _swav,
    "supervised": _supervised,
}
