"""Verify embedding stores: encode some of their views again and compare."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamclip.config import Experiment
from beamclip.data import PackedImages
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import render_for_teacher
from beamclip.preparation.teacher_passes import pack_images, run_teacher_passes
from beamclip.teachers import Embeddings, Teacher, ViewSet

MIN_COSINE = 0.999
"""Smallest cosine of an intact store.

Rounding to fp16 and another batch size lower a cosine by far less than 0.001.
"""

# Unlike the batch sizes that stores are built with by default (powers of 2 from 8), so that the
# batches of the build are not merely repeated.
_BATCH_SIZE = 7


@dataclass(frozen=True)
class Verified:
    """Result of the comparison for one embedding store.

    Attributes:
        store: path of the store.
        teacher: name of its teacher.
        views: number of views that were encoded again.
        lowest: lowest cosine between a stored and a new embedding.
        mean: mean of these cosines.
    """

    store: str
    teacher: str
    views: int
    lowest: float
    mean: float


def compare_with_teacher(
    teacher: Teacher, packed: PackedImages, views: ViewSet, stored: Embeddings, count: int = 256
) -> NDArray[np.float32]:
    """Encode some views again and return their cosines with the stored embeddings.

    Checksums prove that a file is what was written. This proves that the right rows were written:
    views are rendered from their sample and view ids alone.

    Args:
        teacher: the teacher of the store.
        packed: the packed images.
        views: the views of the store.
        stored: the store.
        count: number of views to compare, spread evenly over the store.

    Returns:
        Cosines, [count], or fewer if there are fewer views.
    """
    # A position counts the views of the first sample, then those of the second, and so on.
    positions = np.linspace(0, views.images - 1, min(count, views.images)).round().astype(np.int64)
    rows, view_ids = np.divmod(positions, views.count)
    cosines = np.empty(len(positions), np.float32)
    for view in np.unique(view_ids):
        in_view = np.flatnonzero(view_ids == view)
        for batch in np.array_split(in_view, max(1, len(in_view) // _BATCH_SIZE)):
            ids = views.ids[rows[batch]]
            pixels = render_for_teacher(teacher, packed, views, ids, int(view))
            new = teacher.encode_images(pixels).cpu().numpy()
            old = stored.gather(ids, int(view))
            # New embeddings are unit vectors. Stored ones are not quite, after rounding to fp16.
            cosines[batch] = (new * old).sum(1) / np.linalg.norm(old, axis=1)
    return cosines


def verify(
    experiments: Iterable[Experiment], context: PreparationContext, count: int
) -> list[Verified]:
    """Verify the embedding stores of these experiments; missing stores are built first.

    Args:
        experiments: experiments whose stores are verified. A store that they share is verified
            once.
        context: opens data and teachers.
        count: number of views to compare in each store.

    Raises:
        UserError: see `run_teacher_passes`.
    """
    by_number = {str(number): experiment for number, experiment in enumerate(experiments)}
    data = pack_images(by_number, context)
    results = run_teacher_passes(by_number, data, context)
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
