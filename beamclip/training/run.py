"""The parts of one run on one worker, put together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from beamclip.config import Experiment
from beamclip.data import draw
from beamclip.data.ahead import Ahead
from beamclip.data.views import PixelFormat, render
from beamclip.objectives import build_objective
from beamclip.students import Student, build_student
from beamclip.teachers import load_teacher, precision_for
from beamclip.teachers.tower import images_encoded
from beamclip.training.assets import Assets, OpenAssets, OpenTeacher, open_assets
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
from beamclip.training.loop import Machinery
from beamclip.training.optimiser import build_optimiser, build_schedule
from beamclip.training.probing import student_pixels


@dataclass
class Run:
    """One run on one worker: what was asked for, what it reads, what moves."""

    experiment: Experiment
    context: Context
    opened: OpenAssets
    student: Student
    pixels: PixelFormat
    machinery: Machinery
    images: Images
    teachers: tuple[TeacherSide, ...]
    encoded_before: int = field(default_factory=images_encoded)
    """Images that teachers of this process had encoded before the run began."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.opened.splits.train) // self.experiment.optimiser.batch_size

    def batches(self, epoch: int) -> Ahead[Ids, Batch]:
        """This worker's batches of an epoch."""
        batch_size = self.experiment.optimiser.batch_size
        order = epoch_order(self.opened.splits.train, self.experiment.seed, epoch)
        ids = rank_batches(order, batch_size, self.context.rank, self.context.world_size)
        return Ahead(ids, partial(self.make_batch, epoch), self.context.device)

    def make_batch(self, epoch: int, ids: Ids) -> Batch:
        """The views of these samples in this epoch, and what the teachers say of the very same views."""
        views = self.experiment.views
        view = views.view_of(epoch)
        images = self.images.take(ids)
        parameters = draw(views.resolve(), ids, np.full(len(ids), view), views.seed)
        pixels = render(images, parameters, self.pixels)
        if self.experiment.optimiser.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        seen = 0 if views.teacher == "center" else view
        return Batch(pixels, tuple(teacher.take(ids, seen, images, parameters) for teacher in self.teachers))


def build_run(experiment: Experiment, assets: Assets, context: Context) -> Run:
    """Open the stores and build student, objective, optimiser and schedule, the same on every worker."""
    opened = open_assets(assets, experiment.data)
    student = build_student(experiment.student, opened.width, experiment.seed).to(context.device)
    network = wrap(student, experiment, context)
    config = experiment.optimiser
    anchors = [teacher.anchors.embeddings[: experiment.anchors.count] for teacher in opened.teachers]
    temperatures = [teacher.temperature for teacher in opened.teachers]
    objective = build_objective(experiment.objective, anchors, temperatures).to(context.device)
    optimiser = build_optimiser(config, [student, objective])
    schedule = build_schedule(config, optimiser, len(opened.splits.train) // config.batch_size)
    machinery = Machinery(network, objective, optimiser, schedule, _autocast(experiment, context), config.clip_norm)
    pixels = student_pixels(student, experiment.student.image_size)
    return Run(experiment, context, opened, student, pixels, machinery, *_inputs(experiment, opened, context))


def _inputs(experiment: Experiment, opened: OpenAssets, context: Context) -> tuple[Images, tuple[TeacherSide, ...]]:
    """Images and teachers, on the device where they fit and that is wanted."""
    device, packed, train = context.device, opened.packed, opened.splits.train
    stored = [teacher.views for teacher in opened.teachers if teacher.views is not None]
    size = len(train) * packed.image_size**2 * 3 + sum(views.bytes for views in stored)
    wish = experiment.scaling.resident
    resident = wish == "always" or (wish == "auto" and fits(size, device))
    images = ResidentImages(packed, train, device) if resident else MappedImages(packed, device)
    return images, tuple(_teacher_side(teacher, resident, device) for teacher in opened.teachers)


def _teacher_side(teacher: OpenTeacher, resident: bool, device: torch.device) -> TeacherSide:
    if teacher.views is None:
        return LiveTeacher(load_teacher(teacher.tower, device))
    return ResidentEmbeddings(teacher.views, device) if resident else MappedEmbeddings(teacher.views, device)


def wrap(student: Student, experiment: Experiment, context: Context) -> nn.Module:
    """The student as the loop calls it: memory format, synchronised batch norm on GPUs, DDP, compiled.

    On CPUs batch norm takes the statistics of each worker's share, since torch has no synchronised one there.
    """
    if experiment.optimiser.channels_last:
        student.to(memory_format=torch.channels_last)
    network: nn.Module = student
    if context.world_size > 1:
        on_gpu = context.device.type == "cuda"
        if on_gpu:
            student.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(student.backbone)  # type: ignore[no-untyped-call]
            student.projector = nn.SyncBatchNorm.convert_sync_batchnorm(student.projector)  # type: ignore[no-untyped-call]
        network = nn.parallel.DistributedDataParallel(student, device_ids=[context.device] if on_gpu else None)
    if experiment.optimiser.compile:
        network.compile()
    return network


def _autocast(experiment: Experiment, context: Context) -> Callable[[], AbstractContextManager[Any]]:
    precision = precision_for(experiment.optimiser.precision, context.device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, context.device.type, dtype=precision)
