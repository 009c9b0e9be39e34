"""The teacher pass as work in shards: what each shard holds, and how one is written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.config import TowerConfig, UserError
from beamclip.data.ahead import Ahead
from beamclip.data.draw import draw
from beamclip.data.packed import Ids, PackedImages, open_packed
from beamclip.data.views import render
from beamclip.stores import Shards, temporary_for
from beamclip.teachers.embeddings import shard_name
from beamclip.teachers.known import Known
from beamclip.teachers.loading import load_same_teacher
from beamclip.teachers.tower import Teacher
from beamclip.teachers.views import ViewSet

Place = tuple[Ids, int]
"""Rows of a shard, and a view."""


@dataclass(frozen=True)
class EmbedJob:
    """All views of a set, in shards of neighbouring samples.

    Attributes:
        fingerprint: key of the teacher's; whoever loads it elsewhere must find the same.
        known: stores that hold some of these views already.
        loaded: the teacher, where it is in this process already; it is not sent anywhere.
    """

    packed: Path
    teacher: TowerConfig
    fingerprint: str
    views: ViewSet
    batch_size: int
    shard_rows: int
    known: Known = Known()  # noqa: RUF009, it never changes
    loaded: Teacher | None = field(default=None, repr=False, compare=False)
    label: str = "teacher images"
    on_device: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Images that the teacher must see for each shard: samples times views, without those whose rows are copied."""
        return sizes_of(self.views, self.shard_rows, self.known)

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """The function that encodes one shard.

        Raises:
            UserError: the teacher that this process finds under the name is another one.
        """
        teacher = self.loaded or load_same_teacher(self.teacher, threads, lambda found: found.fingerprint, self.fingerprint)
        packed = open_packed(self.packed)
        return lambda index: self._write(teacher, packed, folder, index)

    def _write(self, teacher: Teacher, packed: PackedImages, folder: Path, index: int) -> None:
        ids = self.views.ids[index * self.shard_rows : (index + 1) * self.shard_rows]
        out = np.zeros((len(ids), self.views.count, teacher.width), np.float16)
        self.known.fill(ids, out)

        def make(place: Place) -> tuple[Place, torch.Tensor]:
            return place, pixels_of(teacher, packed, self.views, ids[place[0]], place[1])

        for (rows, view), pixels in Ahead(self._batches(ids), make, teacher.device):
            out[rows, view] = teacher.encode_images(pixels).cpu().numpy()
        _check_norms(out, teacher.name)
        temporary = temporary_for(folder / shard_name(index))
        with temporary.open("wb") as file:
            np.save(file, out)
        Shards(folder).finish(index, {shard_name(index): temporary}, {"index": index, "rows": len(ids), "views": self.views.count})
        packed.release()

    def _batches(self, ids: Ids) -> Iterator[Place]:
        """Rows and view of what is to be encoded, batch by batch."""
        missing = ~self.known.holds(ids, self.views.count)
        for view in range(self.views.count):
            rows = np.flatnonzero(missing[:, view])
            yield from ((rows[start : start + self.batch_size], view) for start in range(0, len(rows), self.batch_size))


def sizes_of(views: ViewSet, shard_rows: int, known: Known) -> list[int]:
    """Images to encode for each shard of so many samples."""
    missing = (~known.holds(views.ids, views.count)).sum(axis=1)
    return [int(missing[start : start + shard_rows].sum()) for start in range(0, len(views.ids), shard_rows)]


def pixels_of(teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int) -> torch.Tensor:
    """What the teacher is fed for one view of these samples, [N, 3, S, S] on its device."""
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    return render(images, draw(views.recipe, ids, np.full(len(ids), view), views.seed), teacher.pixels)


def _check_norms(embeddings: NDArray[np.float16], name: str) -> None:
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=2)
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(f"the teacher {name} gave embeddings that are zero or not finite; try teacher.precision=fp32")
