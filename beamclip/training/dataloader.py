"""Make the batches of a run: views of images, the teachers' embeddings of these views, and labels.

The order of the samples follows from seed and epoch, and a view from its sample id and view id. So
a batch depends neither on earlier batches nor on the number of workers. A background thread makes
batches ahead of the device (`beamclip.data.prefetch`).

Images and embeddings are either read from memory-mapped stores or *resident*, that is, kept in the
device's memory, where making a batch is a single indexing operation. A live teacher encodes the
views of each batch instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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

# Largest share of the device's free memory for resident data; training needs the rest.
_RESIDENT_MEMORY_SHARE = 0.5
# Images that are copied to the device at a time, which bounds the memory of the host.
_CHUNK = 1024


@dataclass
class Batch:
    """One rank's part of a training step, on its device.

    It has B images, with V large views and C small crops of each. Views are stacked view by view:
    row v * B + i is view v of image i. Small crops are stacked in the same way.

    Attributes:
        images: rendered large views, [V * B, 3, S, S] float32.
        teachers: embeddings of the same views, one tensor [V * B, D_m] float32 for each teacher m.
        count: B; default the number of `images`, that is, one view per image.
        crops: small crops, [C * B, 3, s, s] float32, or None if there are none.
        labels: classes of the images, int64 [B], or None if the objective does not need them.
        clusters: clusters of the images, int64 [B], or None if the objective does not need them.
        epoch: epochs trained before this step, a fraction inside an epoch.
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
    """Tell CUDA's allocator that the training stream uses the tensors of a batch.

    They were made on the loading thread's stream. Without this, the allocator could give their
    memory to a later batch while training still reads it.
    """
    if not batch.images.is_cuda:
        return
    stream = torch.cuda.current_stream(batch.images.device)
    for tensor in (batch.images, *batch.teachers, batch.crops, batch.labels, batch.clusters):
        if tensor is not None:
            tensor.record_stream(stream)


def epoch_order(ids: Ids, seed: int, epoch: int) -> Ids:
    """Return sample ids in the order of an epoch, a random permutation for each (seed, epoch)."""
    # Not drawn from one generator for all epochs, so that a resumed run has the same order.
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(ids)


def rank_batches(order: Ids, batch_size: int, rank: int, world_size: int) -> Iterator[Ids]:
    """Yield this rank's part of every global batch. The last, incomplete batch is dropped.

    Global batches do not depend on the number of workers, so neither does the loss curve.

    Args:
        order: sample ids of the epoch.
        batch_size: images in a global batch; a multiple of `world_size`.
        rank: rank of this worker.
        world_size: number of workers.
    """
    rank_size = batch_size // world_size
    for batch_start in range(0, len(order) - batch_size + 1, batch_size):
        start = batch_start + rank * rank_size
        yield order[start : start + rank_size]


class ImageReader(Protocol):
    """Reads training images by sample id."""

    def read(self, ids: Ids) -> Tensor:
        """Return the images of these sample ids, uint8 [B, S, S, 3] on the device."""


class MappedImages:
    """Reads images from the memory-mapped packed store, batch by batch."""

    def __init__(self, packed: PackedImages, device: torch.device) -> None:
        self._packed = packed
        self._device = device

    def read(self, ids: Ids) -> Tensor:
        """See `ImageReader`."""
        return to_device(torch.from_numpy(self._packed.read(ids)), self._device)


class ResidentImages:
    """Keeps all training images in the device's memory.

    Args:
        packed: the packed store.
        ids: sorted ids of the images to keep.
        device: device to keep them on.
    """

    def __init__(self, packed: PackedImages, ids: Ids, device: torch.device) -> None:
        self._ids = ids
        side = packed.image_size
        self._images = torch.empty(len(ids), side, side, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(ids), _CHUNK):
            chunk = torch.from_numpy(packed.read(ids[start : start + _CHUNK]))
            self._images[start : start + _CHUNK] = chunk.to(device)
        # The memory-mapped pages are not needed any more.
        packed.release()

    def read(self, ids: Ids) -> Tensor:
        """See `ImageReader`."""
        # Row of each sample; `_ids` is sorted.
        rows = torch.from_numpy(np.searchsorted(self._ids, ids))
        return self._images[to_device(rows, self._images.device)]


class EmbeddingReader(Protocol):
    """Reads or computes one teacher's embeddings of views."""

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the embeddings of one view of these samples, [B, D] float32 on the device.

        Args:
            ids: sample ids, [B].
            view: id of the view.
            images: images of the samples, uint8 [B, S, S, 3]; used by a live teacher only.
            parameters: augmentation of the view; used by a live teacher only.
        """


class MappedEmbeddings:
    """Reads embeddings from the memory-mapped store, batch by batch."""

    def __init__(self, stored: Embeddings, device: torch.device) -> None:
        self._stored = stored
        self._device = device

    def read(self, ids: Ids, view: int, images: Tensor, parameters: ViewParameters) -> Tensor:
        """See `EmbeddingReader`."""
        return to_device(torch.from_numpy(self._stored.gather(ids, view)), self._device)


class ResidentEmbeddings:
    """Keeps all embeddings in the device's memory, in half precision as in the store."""

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
        # The same view as the student's, in the teacher's own size and normalization.
        views = render(images, parameters, self._teacher.pixels)
        # The teacher runs in inference mode, and autograd refuses its tensors. A clone made here is
        # an ordinary tensor.
        return self._teacher.encode_images(views).clone()


@dataclass(frozen=True)
class TrainLoader:
    """Makes one worker's batches.

    Attributes:
        experiment: settings of the run.
        context: context of this worker.
        opened: opened stores of the run.
        pixels: format of the large views.
        small_pixels: format of the small crops, or None if there are none.
        images: reader of the training images.
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
        """Return the sample ids of a step's global batch.

        Args:
            epoch: number of the epoch, from 0.
            step: number of the step in the epoch, from 0.
        """
        size = self.experiment.optimizer.batch_size
        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        return order[step * size : (step + 1) * size]

    def batches(self, epoch: int) -> Prefetcher[tuple[int, Ids], Batch]:
        """Return an iterator over this worker's batches of an epoch, made ahead in a thread."""

        def make(numbered_ids: tuple[int, Ids]) -> Batch:
            step, ids = numbered_ids
            return self.make_batch(epoch, ids, step)

        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        batch_size = self.experiment.optimizer.batch_size
        ids_of_steps = rank_batches(order, batch_size, self.context.rank, self.context.world_size)
        return Prefetcher(enumerate(ids_of_steps), make, self.context.device)

    def make_batch(self, epoch: int, ids: Ids, step: int = 0) -> Batch:
        """Make the batch of these samples: views, embeddings and whatever the objective requires.

        Args:
            epoch: number of the epoch, from 0; it determines the views.
            ids: sample ids, [B].
            step: number of the step in the epoch, from 0; only `Batch.epoch` depends on it.
        """
        views = self.experiment.student_views
        requirements = self.experiment.objective.requirements
        images = self.images.read(ids)
        view_ids = views.views_of(epoch, requirements.views, requirements.embeddings)
        parameters = [self._draw(ids, view) for view in view_ids]
        teacher_view_ids = view_ids
        if views.teacher == "center":
            # The store has a single view of each image, with id 0. It serves all student views.
            teacher_view_ids = (0,) * len(view_ids)
        teachers = [
            _read_views(teacher, ids, teacher_view_ids, images, parameters)
            for teacher in self.teachers
        ]
        labels = clusters = None
        if requirements.labels:
            labels = self._int_tensor(self.opened.packed.labels[ids])
        if self.opened.clusters is not None:
            clusters = self._int_tensor(self.opened.clusters.labels_of(ids))
        return Batch(
            images=self._render(images, parameters, self.pixels),
            teachers=tuple(teachers),
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
        # No store depends on small crops, so every epoch gets new ones.
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
    embeddings = []
    for view, view_parameters in zip(view_ids, parameters, strict=True):
        embeddings.append(teacher.read(ids, view, images, view_parameters))
    # cat would copy a single tensor.
    return embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings)


def build_train_loader(
    experiment: Experiment, opened: OpenAssets, context: Context, pixels: PixelFormat
) -> TrainLoader:
    """Build the loader of one worker. `scaling.resident` decides where its data is kept.

    Args:
        experiment: settings of the run.
        opened: opened stores of the run.
        context: context of this worker.
        pixels: format of the student's large views.
    """
    requirements = experiment.objective.requirements
    resident = _is_resident(experiment, opened, context)
    images: ImageReader
    if resident:
        images = ResidentImages(opened.packed, opened.trained, context.device)
    else:
        images = MappedImages(opened.packed, context.device)
    readers: list[EmbeddingReader] = []
    if requirements.embeddings:
        for teacher in opened.teachers:
            readers.append(_open_embeddings(teacher, resident, context.device))
    small_pixels = None
    recipe = experiment.student_views.resolve()
    if requirements.crops and recipe.small_crops:
        small_pixels = replace(pixels, size=max(8, round(recipe.small_side * pixels.size)))
    return TrainLoader(
        experiment=experiment,
        context=context,
        opened=opened,
        pixels=pixels,
        small_pixels=small_pixels,
        images=images,
        teachers=tuple(readers),
    )


def fits_device_memory(size: int, device: torch.device) -> bool:
    """Return True if `size` bytes fit on a GPU and leave enough memory for training."""
    # On a CPU, memory-mapped files are in the same memory anyway.
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size < _RESIDENT_MEMORY_SHARE * free


def _is_resident(experiment: Experiment, opened: OpenAssets, context: Context) -> bool:
    setting = experiment.scaling.resident
    if setting != "auto":
        return setting == "always"
    # Three bytes per pixel, also if the store is JPEG: resident images are decoded.
    size = len(opened.trained) * opened.packed.image_size**2 * 3
    for teacher in opened.teachers:
        if teacher.views is not None:
            size += teacher.views.bytes
    return fits_device_memory(size, context.device)


def _open_embeddings(teacher: OpenTeacher, resident: bool, device: torch.device) -> EmbeddingReader:
    if teacher.views is None:
        return LiveTeacher(load_teacher(teacher.tower, device))
    if resident:
        return ResidentEmbeddings(teacher.views, device)
    return MappedEmbeddings(teacher.views, device)
