"""Do the embedding stores say what the live teacher says?"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamclip.config import Experiment
from beamclip.data import PackedImages
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import pixels_of
from beamclip.preparation.teacher_passes import make_passes
from beamclip.teachers import Embeddings, Teacher, ViewSet

# Does a store say what the teacher says now?


def agreement(
    teacher: Teacher, packed: PackedImages, views: ViewSet, stored: Embeddings, count: int = 256
) -> NDArray[np.float32]:
    """Cosines between stored embeddings and what the teacher says now, of `count` views spread over the store, [count].

    Drawn, rendered and encoded anew from the sample and view ids alone, in batches of another size than the store's.
    """
    places = np.linspace(0, views.images - 1, min(count, views.images)).round().astype(np.int64)
    rows, view_ids = np.divmod(places, views.count)
    cosines = np.empty(len(places), np.float32)
    for view in np.unique(view_ids):
        for chunk in np.array_split(
            np.flatnonzero(view_ids == view), max(1, (view_ids == view).sum() // 7)
        ):
            ids = views.ids[rows[chunk]]
            live = (
                teacher.encode_images(pixels_of(teacher, packed, views, ids, int(view)))
                .cpu()
                .numpy()
            )
            kept = stored.gather(ids, int(view))
            cosines[chunk] = (live * kept).sum(1) / np.linalg.norm(kept, axis=1)
    return cosines


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


def verify(
    experiments: Iterable[Experiment], workshop: PreparationContext, count: int
) -> list[Verified]:
    """Encode `count` views of each store of these experiments again, and compare. Stores that are missing are made first."""
    passes = make_passes(
        {str(number): experiment for number, experiment in enumerate(experiments)}, workshop
    )
    found = list[Verified]()
    for one in passes.wanted.values():
        teacher, stored = workshop.teacher(one.tower), passes.store_of(one)
        workshop.progress("encoding again", len(found), len(passes.wanted))
        cosines = agreement(teacher, one.packed, one.views, stored, count)
        found.append(
            Verified(
                str(stored.store.path),
                teacher.name,
                len(cosines),
                float(cosines.min()),
                float(cosines.mean()),
            )
        )
    return found
