"""Verify embedding stores: encode some of their views again and compare."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamclip.config import Experiment
from beamclip.data import PackedImages
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import render_for_teacher
from beamclip.preparation.teacher_passes import run_teacher_passes
from beamclip.teachers import Embeddings, Teacher, ViewSet

MIN_COSINE = 0.999
"""Smallest cosine of an intact store; fp16 and another batch size lower it by far less."""

# Views that are encoded together: another batch size than a store was built with.
_BATCH = 7


@dataclass(frozen=True)
class Verified:
    """Result of the comparison for one store.

    Attributes:
        store: its path.
        teacher: its teacher's name.
        views: number of views that were encoded again.
        lowest: lowest cosine between stored and new embeddings.
        mean: mean of the cosines.
    """

    store: str
    teacher: str
    views: int
    lowest: float
    mean: float


def compare_with_teacher(
    teacher: Teacher, packed: PackedImages, views: ViewSet, stored: Embeddings, count: int = 256
) -> NDArray[np.float32]:
    """Return cosines between stored embeddings and those that the teacher gives now.

    The views are drawn, rendered and encoded anew, from sample and view ids alone, in batches of
    another size than the store's.

    Args:
        teacher: the teacher of the store.
        packed: the images.
        views: the views of the store.
        stored: the store.
        count: number of views to compare, spread evenly over the store.

    Returns:
        [count] cosines, or fewer if the store has fewer views.
    """
    positions = np.linspace(0, views.images - 1, min(count, views.images)).round().astype(np.int64)
    rows, view_ids = np.divmod(positions, views.count)
    cosines = np.empty(len(positions), np.float32)
    for view in np.unique(view_ids):
        of_view = np.flatnonzero(view_ids == view)
        for chunk in np.array_split(of_view, max(1, len(of_view) // _BATCH)):
            ids = views.ids[rows[chunk]]
            pixels = render_for_teacher(teacher, packed, views, ids, int(view))
            live = teacher.encode_images(pixels).cpu().numpy()
            embeddings = stored.gather(ids, int(view))
            cosines[chunk] = (live * embeddings).sum(1) / np.linalg.norm(embeddings, axis=1)
    return cosines


def verify(
    experiments: Iterable[Experiment], context: PreparationContext, count: int
) -> list[Verified]:
    """Verify the embedding stores of these experiments; missing stores are built first.

    Args:
        experiments: their stores are verified, each once.
        context: the surroundings.
        count: number of views to compare in each store.
    """
    named = {str(number): experiment for number, experiment in enumerate(experiments)}
    results = run_teacher_passes(named, context)
    verified: list[Verified] = []
    for teacher_pass in results.passes.values():
        context.progress("encoding again", len(verified), len(results.passes))
        teacher = context.teacher(teacher_pass.tower)
        stored = results.store_of(teacher_pass)
        cosines = compare_with_teacher(
            teacher, teacher_pass.packed, teacher_pass.views, stored, count
        )
        verified.append(
            Verified(
                store=str(stored.store.path),
                teacher=teacher.name,
                views=len(cosines),
                lowest=float(cosines.min()),
                mean=float(cosines.mean()),
            )
        )
    return verified
