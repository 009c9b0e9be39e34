"""What a run is fed: views of images, and all that its objective asks for beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from beamclip.config import Experiment
from beamclip.data import ViewParameters, draw
from beamclip.data.ahead import Ahead
from beamclip.data.transfer import to_device
from beamclip.data.views import PixelFormat, render_all
from beamclip.teachers import load_teacher
from beamclip.training.assets import OpenAssets, OpenTeacher
from beamclip.training.batches import Batch, Ids, epoch_order, rank_batches
from beamclip.training.context import Context
from beamclip.training.inputs import (
    Images,
    LiveTeacher,
    MappedEmbeddings,
    MappedImages,
    ResidentEmbeddings,
    ResidentImages,
    TeacherSide,
    fits,
)


@dataclass(frozen=True)
class Feed:
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
        return epoch_order(self.opened.trained, self.experiment.seed, epoch)[step * size : (step + 1) * size]

    def batches(self, epoch: int) -> Ahead[tuple[int, Ids], Batch]:
        """This worker's batches of an epoch."""
        order = epoch_order(self.opened.trained, self.experiment.seed, epoch)
        mine = rank_batches(order, self.experiment.optimiser.batch_size, self.context.rank, self.context.world_size)
        return Ahead(enumerate(mine), partial(self._made, epoch), self.context.device)

    def _made(self, epoch: int, place: tuple[int, Ids]) -> Batch:
        return self.make_batch(epoch, place[1], place[0])

    def make_batch(self, epoch: int, ids: Ids, step: int = 0) -> Batch:
        """The views of these samples in this epoch, and what teachers and others say of them."""
        views, needs = self.experiment.shown, self.experiment.objective.needs
        images = self.images.take(ids)
        drawn = [(view, self._drawn(ids, view)) for view in views.views_of(epoch, needs.views, needs.embeddings)]
        return Batch(
            self._rendered(images, (parameters for _, parameters in drawn), self.pixels),
            tuple(_asked(teacher, ids, images, drawn, views.teacher == "center") for teacher in self.teachers),
            len(ids),
            self._crops(images, ids, epoch),
            self._numbers(self.opened.packed.labels[ids]) if needs.labels else None,
            self._numbers(self.opened.clusters.labels_of(ids)) if self.opened.clusters is not None else None,
            epoch + step / self.steps,
        )

    def _drawn(self, ids: Ids, view: int, small: bool = False) -> ViewParameters:
        views = self.experiment.shown
        return draw(views.resolve(), ids, np.full(len(ids), view), views.seed, small)

    def _rendered(self, images: Tensor, parameters: Iterator[ViewParameters], pixels: PixelFormat) -> Tensor:
        together = render_all(images, list(parameters), pixels)
        return together.contiguous(memory_format=torch.channels_last) if self.experiment.optimiser.channels_last else together

    def _crops(self, images: Tensor, ids: Ids, epoch: int) -> Tensor | None:
        count = self.experiment.shown.resolve().small_crops
        if self.small is None:
            return None
        parameters = (self._drawn(ids, crop, small=True) for crop in range(epoch * count, (epoch + 1) * count))
        return self._rendered(images, parameters, self.small)

    def _numbers(self, values: Ids) -> Tensor:
        return to_device(torch.from_numpy(np.ascontiguousarray(values, np.int64)), self.context.device)


def _asked(teacher: TeacherSide, ids: Ids, images: Tensor, drawn: list[tuple[int, ViewParameters]], center: bool) -> Tensor:
    """What one teacher says of each of these views, [V · B, D]."""
    said = [teacher.take(ids, 0 if center else view, images, parameters) for view, parameters in drawn]
    return said[0] if len(said) == 1 else torch.cat(said)


def build_feed(experiment: Experiment, opened: OpenAssets, context: Context, pixels: PixelFormat) -> Feed:
    """Open images and teachers, on the device where they fit and that is wanted."""
    needs, recipe = experiment.objective.needs, experiment.shown.resolve()
    teachers = opened.teachers if needs.embeddings else ()
    resident = _resident(experiment, opened, context)
    images = ResidentImages(opened.packed, opened.trained, context.device) if resident else MappedImages(opened.packed, context.device)
    sides = tuple(_teacher_side(teacher, resident, context.device) for teacher in teachers)
    small = replace(pixels, size=max(8, round(recipe.small_side * pixels.size))) if needs.crops and recipe.small_crops else None
    return Feed(experiment, context, opened, pixels, small, images, sides)


def _resident(experiment: Experiment, opened: OpenAssets, context: Context) -> bool:
    stored = [teacher.views for teacher in opened.teachers if teacher.views is not None]
    size = len(opened.trained) * opened.packed.image_size**2 * 3 + sum(views.bytes for views in stored)
    wish = experiment.scaling.resident
    return wish == "always" or (wish == "auto" and fits(size, context.device))


def _teacher_side(teacher: OpenTeacher, resident: bool, device: torch.device) -> TeacherSide:
    if teacher.views is None:
        return LiveTeacher(load_teacher(teacher.tower, device))
    return ResidentEmbeddings(teacher.views, device) if resident else MappedEmbeddings(teacher.views, device)
