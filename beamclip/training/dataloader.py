"""Make the batches of a run: views of the images, the teachers' embeddings of them, and labels.

The order of samples is a permutation of (seed, epoch), and a view is a function of its sample and
view ids, so a batch depends neither on earlier batches nor on the number of workers. A background
thread makes batches ahead of the device (`beamclip.data.prefetch`).

Images and embeddings are read from memory-mapped stores, or are resident: kept on the device, where
a batch is a gather. A live teacher encodes the views of each batch instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from beamclip.config import Experiment
from beamclip.data import PackedImages, ViewParameters, draw
from beamclip.data.augmentation.render import PixelFormat, render, render_all
from beamclip.data.packed import Ids
from beamclip.data.prefetch import Prefetcher, to_device
from beamclip.preparation.assets import OpenAssets, OpenTeacher
from beamclip.teachers import Embeddings, Teacher, load_teacher
from beamclip.training.context import Context

# Share of the device's free memory that resident data may take; training needs the rest.
_RESIDENT_MEMORY_SHARE = 0.5
# Images that are copied to the device at a time.
_CHUNK = 1024


@dataclass
class Batch:
    """One rank's part of a training step, on its device.

    It holds B images, of which V large views and C small crops. The views of all images are stacked
    view by view: row v * B + i is view v of image i.

    Attributes:
        images: rendered views, [V * B, 3, S, S] float32.
        teachers: each teacher's embeddings of the same views, [V * B, D_m] float32.
        count: B; 0 means one view per image.
        crops: [C * B, 3, s, s] float32, or None without small crops.
        labels: classes, int64 [B], or None if the objective does not need them.
        clusters: clusters of the images, int64 [B], or None likewise.
        epoch: epochs trained before this step, including the finished part of the current one.
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


def record_stream(batch: Batch) -> None:
    """Tell the allocator that the training stream uses memory of the loading thread's stream."""
    if not batch.images.is_cuda:
        return
    stream = torch.cuda.current_stream(batch.images.device)
    for tensor in (batch.images, *batch.teachers, batch.crops, batch.labels, batch.clusters):
        if tensor is not None:
            tensor.record_stream(stream)


def epoch_order(ids: Ids, seed: int, epoch: int) -> Ids:
    """Return the samples in the order of this epoch, a permutation by (seed, epoch)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(ids)


def rank_batches(order: Ids, batch_size: int, rank: int, world_size: int) -> Iterator[Ids]:
    """Yield this rank's part of every global batch; the last, incomplete batch is dropped.

    The global batches do not depend on the number of workers, so neither does the loss curve.

    Args:
        order: sample ids of the epoch.
        batch_size: of all workers together; a multiple of `world_size`.
        rank: of this worker.
        world_size: number of workers.
    """
    rank_size = batch_size // world_size
    for batch_start in range(0, len(order) - batch_size + 1, batch_size):
        start = batch_start + rank * rank_size
        yield order[start : start + rank_size]


class ImageReader(Protocol):
    """Reads training images by sample id."""

    def read(self, ids: Ids) -> Tensor:
        """Return the images, uint8 [B, S, S, 3] on the device."""


class MappedImages:
    """Images of the memory-mapped packed store, read batch by batch."""

    def __init__(self, packed: PackedImages, device: torch.device) -> None:
        self._packed = packed
        self._device = device

    def read(self, ids: Ids) -> Tensor:
        """See `ImageReader`."""
        return to_device(torch.from_numpy(self._packed.read(ids)), self._device)


class ResidentImages:
    """All training images in the device's memory.

    Args:
        packed: the packed store.
        ids: sorted ids of the images to keep.
        device: where they are kept.
    """

    def __init__(self, packed: PackedImages, ids: Ids, device: torch.device) -> None:
        self._ids = ids
        side = packed.image_size
        self._images = torch.empty(len(ids), side, side, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(ids), _CHUNK):
            chunk = torch.from_numpy(packed.read(ids[start : start + _CHUNK]))
            self._images[start : start + _CHUNK] = chunk.to(device)
        packed.release()

    def read(self, ids: Ids) -> Tensor:
        """See `ImageReader`."""
        rows = torch.from_numpy(np.searchsorted(self._ids, ids))
        return self._images[to_device(rows, self._images.device)]


class EmbeddingReader(Protocol):
    """Returns a teacher's embeddings of views."""

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the embeddings of one view of these samples, [B, D] float32 on the device.

        Args:
            ids: of the samples.
            view: id of the view.
            images: of the samples; only a live teacher needs them.
            parameters: of the view; only a live teacher needs them.
        """


class MappedEmbeddings:
    """Embeddings of the memory-mapped store, read batch by batch."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored = stored
        self._device = device

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `EmbeddingReader`."""
        return to_device(torch.from_numpy(self._stored.gather(ids, view)), self._device)


class ResidentEmbeddings:
    """All embeddings in the device's memory, in half precision as they are stored."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored = stored
        self._embeddings = torch.from_numpy(stored.all()).to(device)

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `EmbeddingReader`."""
        rows = torch.from_numpy(self._stored.rows_of(ids))
        return self._embeddings[to_device(rows, self._embeddings.device), view].float()


class LiveTeacher:
    """A teacher that encodes the views of each batch during training."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `EmbeddingReader`."""
        # The clone is not an inference-mode tensor, so a loss can be computed from it.
        return self._teacher.encode_images(render(images, parameters, self._teacher.pixels)).clone()


@dataclass(frozen=True)
class TrainLoader:
    """Makes one worker's batches.

    Attributes:
        experiment: the settings of the run.
        context: of this worker.
        opened: the run's stores.
        pixels: format of the large views.
        small_pixels: format of the small crops, or None without small crops.
        images: reads the training images.
        teachers: one reader for each teacher; empty if the objective needs no teacher embeddings.
    """

    experiment: Experiment
    context: Context
    opened: OpenAssets
    pixels: PixelFormat
    small_pixels: PixelFormat | None
    images: ImageReader
    teachers: tuple[EmbeddingReader, ...]

    @property
    def steps(self) -> int:
        """Number of steps per epoch."""
        return len(self.opened.trained) // self.experiment.optimizer.batch_size

    def global_batch_ids(self, epoch: int, step: int) -> Ids:
        """Return the sample ids of all workers in a step."""
        size = self.experiment.optimizer.batch_size
        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        return order[step * size : (step + 1) * size]

    def batches(self, epoch: int) -> Prefetcher[tuple[int, Ids], Batch]:
        """Return an iterator over this worker's batches of an epoch, made ahead in a thread."""
        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        batch_size = self.experiment.optimizer.batch_size
        ids = rank_batches(order, batch_size, self.context.rank, self.context.world_size)
        return Prefetcher(enumerate(ids), partial(self._make_numbered, epoch), self.context.device)

    def _make_numbered(self, epoch: int, numbered: tuple[int, Ids]) -> Batch:
        step, ids = numbered
        return self.make_batch(epoch, ids, step)

    def make_batch(self, epoch: int, ids: Ids, step: int = 0) -> Batch:
        """Make the batch of these samples: views, embeddings, labels and so on.

        Args:
            epoch: decides which views the samples have.
            ids: sample ids, [B].
            step: number of the step in the epoch, from 0; only `Batch.epoch` depends on it.
        """
        views = self.experiment.student_views
        requirements = self.experiment.objective.requirements
        images = self.images.read(ids)
        view_ids = views.views_of(epoch, requirements.views, requirements.embeddings)
        parameters = [self._draw(ids, view) for view in view_ids]
        # With canonical teacher views, every view is taught with the one that is stored.
        stored_view_ids = [0 if views.teacher == "center" else view for view in view_ids]
        labels = clusters = None
        if requirements.labels:
            labels = self._int_tensor(self.opened.packed.labels[ids])
        if self.opened.clusters is not None:
            clusters = self._int_tensor(self.opened.clusters.labels_of(ids))
        return Batch(
            images=self._render(images, parameters, self.pixels),
            teachers=tuple(
                _read_views(teacher, ids, stored_view_ids, images, parameters)
                for teacher in self.teachers
            ),
            count=len(ids),
            crops=self._small_crops(images, ids, epoch),
            labels=labels,
            clusters=clusters,
            epoch=epoch + step / self.steps,
        )

    def _draw(self, ids: Ids, view: int, small: bool = False) -> ViewParameters:
        views = self.experiment.student_views
        return draw(views.resolve(), ids, np.full(len(ids), view), views.seed, small)

    def _render(
        self, images: Tensor, parameters: Sequence[ViewParameters], pixels: PixelFormat
    ) -> Tensor:
        rendered = render_all(images, parameters, pixels)
        if self.experiment.optimizer.channels_last:
            rendered = rendered.contiguous(memory_format=torch.channels_last)
        return rendered

    def _small_crops(self, images: Tensor, ids: Ids, epoch: int) -> Tensor | None:
        if self.small_pixels is None:
            return None
        count = self.experiment.student_views.resolve().small_crops
        crop_ids = range(epoch * count, (epoch + 1) * count)
        parameters = [self._draw(ids, crop, small=True) for crop in crop_ids]
        return self._render(images, parameters, self.small_pixels)

    def _int_tensor(self, values: Ids) -> Tensor:
        array = np.ascontiguousarray(values, np.int64)
        return to_device(torch.from_numpy(array), self.context.device)


def _read_views(
    teacher: EmbeddingReader,
    ids: Ids,
    view_ids: Sequence[int],
    images: Tensor,
    parameters: Sequence[ViewParameters],
) -> Tensor:
    """Return a teacher's embeddings of several views, [V * B, D]."""
    embeddings = [
        teacher.read(ids, view, images, view_parameters)
        for view, view_parameters in zip(view_ids, parameters, strict=True)
    ]
    return embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings)


def build_train_loader(
    experiment: Experiment, opened: OpenAssets, context: Context, pixels: PixelFormat
) -> TrainLoader:
    """Build the loader; images and embeddings are resident if `scaling.resident` says so.

    Args:
        experiment: the settings of the run.
        opened: its stores.
        context: of this worker.
        pixels: format of the student's large views.
    """
    requirements = experiment.objective.requirements
    recipe = experiment.student_views.resolve()
    teachers = opened.teachers if requirements.embeddings else ()
    resident = _is_resident(experiment, opened, context)
    images: ImageReader = (
        ResidentImages(opened.packed, opened.trained, context.device)
        if resident
        else MappedImages(opened.packed, context.device)
    )
    small_pixels = None
    if requirements.crops and recipe.small_crops:
        small_pixels = replace(pixels, size=max(8, round(recipe.small_side * pixels.size)))
    return TrainLoader(
        experiment,
        context,
        opened,
        pixels,
        small_pixels,
        images,
        tuple(_open_embeddings(teacher, resident, context.device) for teacher in teachers),
    )


def fits_device_memory(size: int, device: torch.device) -> bool:
    """Return True if `size` bytes fit on a GPU and leave enough memory for training."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size < _RESIDENT_MEMORY_SHARE * free


def _is_resident(experiment: Experiment, opened: OpenAssets, context: Context) -> bool:
    image_bytes = len(opened.trained) * opened.packed.image_size**2 * 3
    stored = [teacher.views for teacher in opened.teachers if teacher.views is not None]
    size = image_bytes + sum(views.bytes for views in stored)
    setting = experiment.scaling.resident
    return setting == "always" or (setting == "auto" and fits_device_memory(size, context.device))


def _open_embeddings(teacher: OpenTeacher, resident: bool, device: torch.device) -> EmbeddingReader:
    if teacher.views is None:
        return LiveTeacher(load_teacher(teacher.tower, device))
    if resident:
        return ResidentEmbeddings(teacher.views, device)
    return MappedEmbeddings(teacher.views, device)
