"""Do the embedding stores say what the live teacher says?"""

from collections.abc import Iterable
from dataclasses import dataclass

from beamclip.config import Experiment
from beamclip.teachers import agreement
from beamclip.training.passes import make_passes
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
    passes = make_passes({str(number): experiment for number, experiment in enumerate(experiments)}, workshop)
    found = list[Verified]()
    for one in passes.wanted.values():
        teacher, stored = workshop.teacher(one.tower), passes.store_of(one)
        workshop.progress("encoding again", len(found), len(passes.wanted))
        cosines = agreement(teacher, one.packed, one.views, stored, count)
        found.append(Verified(str(stored.store.path), teacher.name, len(cosines), float(cosines.min()), float(cosines.mean())))
    return found
