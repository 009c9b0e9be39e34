"""The teacher pass as work in shards: what each shard holds, and how one is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from beamclip.stores import Shards
from beamclip.teachers.embeddings import shard_name
from beamclip.teachers.tower import Teacher, load_same_teacher
from beamclip.teachers.views import ViewSet


@dataclass(frozen=True)
class EmbedJob:
    """All views of a set, in shards of neighbouring samples.

    Attributes:
        fingerprint: key of the teacher's; whoever loads it elsewhere must find the same.
        loaded: the teacher, where it is in this process already; it is not sent anywhere.
    """

    packed: Path
    teacher: TowerConfig
    fingerprint: str
    views: ViewSet
    batch_size: int
    shard_rows: int
    loaded: Teacher | None = field(default=None, repr=False, compare=False)
    label: str = "teacher images"
    on_device: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @property
    def sizes(self) -> Sequence[int]:
        """Images in each shard: samples times views."""
        count = len(self.views.ids)
        return [(min(start + self.shard_rows, count) - start) * self.views.count for start in range(0, count, self.shard_rows)]

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
        batches = [(start, view) for view in range(self.views.count) for start in range(0, len(ids), self.batch_size)]

        def make(place: tuple[int, int]) -> tuple[tuple[int, int], torch.Tensor]:
            return place, pixels_of(teacher, packed, self.views, ids[place[0] : place[0] + self.batch_size], place[1])

        for (start, view), pixels in Ahead(iter(batches), make, teacher.device):
            out[start : start + self.batch_size, view] = teacher.encode_images(pixels).cpu().numpy()
        _check_norms(out, teacher.name)
        temporary = folder / f"{shard_name(index)}.tmp.npy"
        np.save(temporary, out)
        Shards(folder).finish(index, {shard_name(index): temporary}, {"index": index, "rows": len(ids), "views": self.views.count})
        packed.release()


def pixels_of(teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int) -> torch.Tensor:
    """What the teacher is fed for one view of these samples, [N, 3, S, S] on its device."""
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    return render(images, draw(views.recipe, ids, np.full(len(ids), view), views.seed), teacher.pixels)


def _check_norms(embeddings: NDArray[np.float16], name: str) -> None:
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=2)
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(f"the teacher {name} gave embeddings that are zero or not finite; try teacher.precision=fp32")
