"""The parts of one run on one worker, put together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from beamclip.config import Experiment
from beamclip.data import PixelFormat, draw, render
from beamclip.objectives import build_objective
from beamclip.students import Student, build_student
from beamclip.teachers import precision_for
from beamclip.training.assets import Assets, OpenAssets, open_assets
from beamclip.training.batches import Ahead, Batch, Ids, epoch_order, rank_batches
from beamclip.training.context import Context
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

    @property
    def steps_per_epoch(self) -> int:
        return len(self.opened.splits.train) // self.experiment.optimiser.batch_size

    def batches(self, epoch: int) -> Ahead[Batch]:
        """This worker's batches of an epoch."""
        batch_size = self.experiment.optimiser.batch_size
        order = epoch_order(self.opened.splits.train, self.experiment.seed, epoch)
        ids = rank_batches(order, batch_size, self.context.rank, self.context.world_size)
        return Ahead(ids, partial(self.make_batch, epoch), self.context.device)

    def make_batch(self, epoch: int, ids: Ids) -> Batch:
        """The views of these samples in this epoch, and what the teacher said of the very same views.

        Epochs cycle through the stored views; where the teacher saw only the canonical view, every epoch draws a new one.
        """
        views, device = self.experiment.views, self.context.device
        view = epoch if views.teacher == "center" else epoch % views.stored
        images = torch.from_numpy(self.opened.packed.read(ids)).to(device)
        pixels = render(images, draw(views.resolve(), ids, np.full(len(ids), view), views.seed), self.pixels)
        if self.experiment.optimiser.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return Batch(pixels, torch.from_numpy(self.opened.teacher_views.gather(ids, view)).to(device))


def build_run(experiment: Experiment, assets: Assets, context: Context) -> Run:
    """Open the stores and build student, objective, optimiser and schedule, the same on every worker."""
    opened = open_assets(assets, experiment.data)
    student = build_student(experiment.student, opened.anchors.embeddings.shape[1], experiment.seed).to(context.device)
    network = wrap(student, experiment, context)
    config = experiment.optimiser
    anchors = opened.anchors.embeddings[: experiment.anchors.count].to(context.device)
    objective = build_objective(experiment.objective, anchors).to(context.device)
    optimiser = build_optimiser(config, [student, objective])
    schedule = build_schedule(config, optimiser, len(opened.splits.train) // config.batch_size)
    machinery = Machinery(network, objective, optimiser, schedule, _autocast(experiment, context), config.clip_norm)
    return Run(experiment, context, opened, student, student_pixels(student, experiment.student.image_size), machinery)


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
