"""What a run is fed: views of images, and all that its objective asks for beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.config import Experiment
from beamclip.data import PackedImages, ViewParameters, draw
from beamclip.data.augmentation.render import PixelFormat, render, render_all
from beamclip.data.prefetch import Prefetcher, to_device
from beamclip.preparation.assets import OpenAssets, OpenTeacher
from beamclip.teachers import Embeddings, Teacher, load_teacher
from beamclip.training.context import Context

# Batches in an order that depends on seed and epoch alone, made ahead of the device.


Ids = NDArray[np.int64]


def epoch_order(ids: Ids, seed: int, epoch: int) -> Ids:
    """The samples in this epoch's order: a permutation drawn from (seed, epoch), whatever came before."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(ids)


def rank_batches(order: Ids, batch_size: int, rank: int, world_size: int) -> Iterator[Ids]:
    """This rank's share of every global batch; the last, incomplete batch is left out.

    The global batches are the same for any number of workers, which is what makes their loss curves equal.
    """
    share = batch_size // world_size
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start + rank * share : start + (rank + 1) * share]


@dataclass
class Batch:
    """One rank's part of a step, on its device: B images of which V large views and C small crops.

    Views of all images stand together: row v · B + i is view v of image i.

    Attributes:
        images: rendered views, [V · B, 3, S, S] float32.
        teachers: each teacher's embeddings of the same views, [V · B, D_m] float32.
        count: B; 0 for as many as there are views.
        crops: [C · B, 3, s, s] float32, None where there are none.
        labels: classes, int64 [B], None where nobody asks.
        clusters: numbers of the clusters, int64 [B], likewise.
        epoch: epochs done before this step, with the part of the present one.
    """

    images: Tensor
    teachers: tuple[Tensor, ...] = ()
    count: int = 0
    crops: Tensor | None = None
    labels: Tensor | None = None
    clusters: Tensor | None = None
    epoch: float = 0.0

    def __post_init__(self) -> None:
        self.count = self.count or len(self.images)


def use_on_current_stream(batch: Batch) -> None:
    """Tell the allocator that the training stream reads memory the loading stream made."""
    if batch.images.is_cuda:
        stream = torch.cuda.current_stream(batch.images.device)
        for tensor in (batch.images, *batch.teachers, batch.crops, batch.labels, batch.clusters):
            if tensor is not None:
                tensor.record_stream(stream)


# Where a batch comes from: training images and teachers' embeddings, read from memory maps, kept on the device, or made on the spot.


_SHARE = 0.5  # of the device's free memory; training needs the rest
_CHUNK = 1024


class Images(Protocol):
    """Training images by sample id."""

    def take(self, ids: Ids) -> Tensor:
        """uint8 [B, S, S, 3] on the device."""


class TeacherSide(Protocol):
    """What a teacher says of views."""

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """Embeddings of these samples' view, [B, D] float32 on the device; images and parameters say what it looks like."""


class MappedImages:
    """Read from the packed store batch by batch."""

    def __init__(self, packed: PackedImages, device: torch.device) -> None:
        self._packed, self._device = packed, device

    def take(self, ids: Ids) -> Tensor:
        """See `Images`."""
        return to_device(torch.from_numpy(self._packed.read(ids)), self._device)


class ResidentImages:
    """All training images in the device's memory: a batch is a gather."""

    def __init__(self, packed: PackedImages, ids: Ids, device: torch.device) -> None:
        self._ids = ids
        side = packed.image_size
        self._images = torch.empty(len(ids), side, side, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(ids), _CHUNK):
            self._images[start : start + _CHUNK] = torch.from_numpy(
                packed.read(ids[start : start + _CHUNK])
            ).to(device)
        packed.release()

    def take(self, ids: Ids) -> Tensor:
        """See `Images`."""
        rows = torch.from_numpy(np.searchsorted(self._ids, ids))
        return self._images[to_device(rows, self._images.device)]


class MappedEmbeddings:
    """Read from the embedding store batch by batch."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored, self._device = stored, device

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        return to_device(torch.from_numpy(self._stored.gather(ids, view)), self._device)


class ResidentEmbeddings:
    """All embeddings in the device's memory."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored = stored
        self._rows = torch.from_numpy(stored.all()).to(device)

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        rows = torch.from_numpy(self._stored.rows_of(ids))
        return self._rows[to_device(rows, self._rows.device), view].float()


class LiveTeacher:
    """Encodes every view when it is needed."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def take(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `TeacherSide`."""
        return self._teacher.encode_images(render(images, parameters, self._teacher.pixels)).clone()


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on a device: a GPU's memory holds them beside what training needs."""
    return device.type == "cuda" and size < _SHARE * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class TrainLoader:
    """Makes one worker's batches.

    Attributes:
        pixels: of the large views.
        small: of the small crops, None where there are none.
    """

    experiment: Experiment
    context: Context
    opened: OpenAssets
    pixels: PixelFormat
    small: PixelFormat | None
    images: Images
    teachers: tuple[TeacherSide, ...]

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.opened.trained) // self.experiment.optimiser.batch_size

    def global_ids(self, epoch: int, step: int) -> Ids:
        """The samples of all workers in a step."""
        size = self.experiment.optimiser.batch_size
        return epoch_order(self.opened.trained, self.experiment.seed, epoch)[
            step * size : (step + 1) * size
        ]

    def batches(self, epoch: int) -> Prefetcher[tuple[int, Ids], Batch]:
        """This worker's batches of an epoch."""
        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        mine = rank_batches(
            order, self.experiment.optimiser.batch_size, self.context.rank, self.context.world_size
        )
        return Prefetcher(enumerate(mine), partial(self._made, epoch), self.context.device)

    def _made(self, epoch: int, place: tuple[int, Ids]) -> Batch:
        return self.make_batch(epoch, place[1], place[0])

    def make_batch(self, epoch: int, ids: Ids, step: int = 0) -> Batch:
        """The views of these samples in this epoch, and what teachers and others say of them."""
        views, needs = self.experiment.shown, self.experiment.objective.needs
        images = self.images.take(ids)
        drawn = [
            (view, self._drawn(ids, view))
            for view in views.views_of(epoch, needs.views, needs.embeddings)
        ]
        return Batch(
            self._rendered(images, (parameters for _, parameters in drawn), self.pixels),
            tuple(
                _asked(teacher, ids, images, drawn, views.teacher == "center")
                for teacher in self.teachers
            ),
            len(ids),
            self._crops(images, ids, epoch),
            self._numbers(self.opened.packed.labels[ids]) if needs.labels else None,
            self._numbers(self.opened.clusters.labels_of(ids))
            if self.opened.clusters is not None
            else None,
            epoch + step / self.steps,
        )

    def _drawn(self, ids: Ids, view: int, small: bool = False) -> ViewParameters:
        views = self.experiment.shown
        return draw(views.resolve(), ids, np.full(len(ids), view), views.seed, small)

    def _rendered(
        self, images: Tensor, parameters: Iterator[ViewParameters], pixels: PixelFormat
    ) -> Tensor:
        together = render_all(images, list(parameters), pixels)
        return (
            together.contiguous(memory_format=torch.channels_last)
            if self.experiment.optimiser.channels_last
            else together
        )

    def _crops(self, images: Tensor, ids: Ids, epoch: int) -> Tensor | None:
        count = self.experiment.shown.resolve().small_crops
        if self.small is None:
            return None
        parameters = (
            self._drawn(ids, crop, small=True) for crop in range(epoch * count, (epoch + 1) * count)
        )
        return self._rendered(images, parameters, self.small)

    def _numbers(self, values: Ids) -> Tensor:
        return to_device(
            torch.from_numpy(np.ascontiguousarray(values, np.int64)), self.context.device
        )


def _asked(
    teacher: TeacherSide,
    ids: Ids,
    images: Tensor,
    drawn: list[tuple[int, ViewParameters]],
    center: bool,
) -> Tensor:
    """What one teacher says of each of these views, [V · B, D]."""
    said = [
        teacher.take(ids, 0 if center else view, images, parameters) for view, parameters in drawn
    ]
    return said[0] if len(said) == 1 else torch.cat(said)


def build_train_loader(
    experiment: Experiment, opened: OpenAssets, context: Context, pixels: PixelFormat
) -> TrainLoader:
    """Open images and teachers, on the device where they fit and that is wanted."""
    needs, recipe = experiment.objective.needs, experiment.shown.resolve()
    teachers = opened.teachers if needs.embeddings else ()
    resident = _resident(experiment, opened, context)
    images = (
        ResidentImages(opened.packed, opened.trained, context.device)
        if resident
        else MappedImages(opened.packed, context.device)
    )
    sides = tuple(_teacher_side(teacher, resident, context.device) for teacher in teachers)
    small = (
        replace(pixels, size=max(8, round(recipe.small_side * pixels.size)))
        if needs.crops and recipe.small_crops
        else None
    )
    return TrainLoader(experiment, context, opened, pixels, small, images, sides)


def _resident(experiment: Experiment, opened: OpenAssets, context: Context) -> bool:
    stored = [teacher.views for teacher in opened.teachers if teacher.views is not None]
    size = len(opened.trained) * opened.packed.image_size**2 * 3 + sum(
        views.bytes for views in stored
    )
    wish = experiment.scaling.resident
    return wish == "always" or (wish == "auto" and fits(size, context.device))


def _teacher_side(teacher: OpenTeacher, resident: bool, device: torch.device) -> TeacherSide:
    if teacher.views is None:
        return LiveTeacher(load_teacher(teacher.tower, device))
    return (
        ResidentEmbeddings(teacher.views, device)
        if resident
        else MappedEmbeddings(teacher.views, device)
    )
