"""Do the embedding stores say what the live teacher says?"""

from collections.abc import Iterable
from dataclasses import dataclass

from beamclip.config import Experiment
from beamclip.data import split
from beamclip.teachers import agreement, embed
from beamclip.training.wanted import joined, wanted_by
from beamclip.training.workshop import Workshop

ENOUGH = 0.999
"""The cosine that stored and live embeddings of the same view must reach: fp16 and another batch size cost far less."""


@dataclass(frozen=True)
class Verified:
    """One store, compared.

    Attributes:
        store: its path.
        teacher: its teacher's name.
        views: how many views were encoded again.
        lowest, mean: of the cosines between stored and live.
    """

    store: str
    teacher: str
    views: int
    lowest: float
    mean: float


def verify(experiments: Iterable[Experiment], workshop: Workshop, count: int) -> list[Verified]:
    """Encode `count` views of each store of these experiments again, and compare. Stores that are missing are made first."""
    packed = [(experiment, workshop.packed(experiment.data)) for experiment in experiments]
    passes = joined(one for experiment, images in packed for one in wanted_by(experiment, images, split(images, experiment.data)))
    found = list[Verified]()
    for one in passes.values():
        teacher = workshop.teacher(one.tower)
        stored, _ = embed(teacher, one.packed, one.views, workshop.root, workshop.progress, workshop.run, pace=workshop.pace)
        workshop.progress("encoding again", len(found), len(passes))
        cosines = agreement(teacher, one.packed, one.views, stored, count)
        found.append(Verified(str(stored.store.path), teacher.name, len(cosines), float(cosines.min()), float(cosines.mean())))
    return found
