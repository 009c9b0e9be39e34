"""The parts of one run on one worker, put together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from beamclip.config import Experiment, Requirements, UserError
from beamclip.data.augmentation.render import PixelFormat
from beamclip.data.prefetch import Prefetcher
from beamclip.objectives import LossContext, LossInputs, Objective, build_objective
from beamclip.preparation.assets import Assets, OpenAssets, open_assets
from beamclip.students import Student, TrainingCost, build_student, spent_before
from beamclip.students.backbones import feature_width
from beamclip.teachers import precision_for
from beamclip.teachers.tower import images_encoded
from beamclip.training.context import Context
from beamclip.training.dataloader import Batch, Ids, TrainLoader, build_train_loader
from beamclip.training.evaluate import student_pixels
from beamclip.training.loop import TrainState
from beamclip.training.optimizer import build_optimiser, build_schedule

# Student and objective as one module: a batch in, the objective's terms out.


Autocast = Callable[[], AbstractContextManager[Any]]


class TrainModule(nn.Module):
    """What DDP wraps: the gradients of the student and of the objective's own parts (heads, prototypes) are averaged together.

    Args:
        student: trained; without its projector where the objective does not look at embeddings.
        objective: in full precision whatever the student runs in.
        needs: of the objective.
        autocast: the precision of the student.
    """

    def __init__(
        self, student: Student, objective: Objective, needs: Requirements, autocast: Autocast
    ) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self._needs, self.autocast = needs, autocast
        student.projector.requires_grad_(
            needs.projected
        )  # what has no gradient is not waited for by DDP, nor decayed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's terms for one worker's share of a step."""
        with self.autocast():
            features = self.student.features(batch.images)
            embeddings = self.student.projector(features) if self._needs.projected else None
            crops = None if batch.crops is None else self.student.features(batch.crops)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._terms(batch, features, embeddings, crops)

    def _terms(
        self, batch: Batch, features: Tensor, embeddings: Tensor | None, crops: Tensor | None
    ) -> dict[str, Tensor]:
        crops, embeddings = (None if rows is None else rows.float() for rows in (crops, embeddings))
        seen = LossInputs(
            batch.count,
            features.float(),
            embeddings,
            crops,
            batch.teachers,
            batch.labels,
            batch.clusters,
            batch.epoch,
        )
        terms: dict[str, Tensor] = self.objective(seen)
        return terms


@dataclass
class Run:
    """One run on one worker: what was asked for, what it reads, what moves."""

    experiment: Experiment
    context: Context
    opened: OpenAssets
    student: Student
    pixels: PixelFormat
    machinery: TrainState
    feed: TrainLoader
    spent_before: TrainingCost = field(default_factory=TrainingCost)
    """On the student it starts from."""
    encoded_before: int = field(default_factory=images_encoded)
    """Images that teachers of this process had encoded before this run last counted."""

    @property
    def steps_per_epoch(self) -> int:
        return self.feed.steps

    def batches(self, epoch: int) -> Prefetcher[tuple[int, Ids], Batch]:
        """This worker's batches of an epoch."""
        return self.feed.batches(epoch)


def build_run(experiment: Experiment, assets: Assets, context: Context) -> Run:
    """Open the stores and build student, objective, optimiser and schedule, the same on every worker.

    Raises:
        UserError: a store is damaged, or the objective asks for what data or student can't give.
    """
    opened, config = open_assets(assets, experiment.data), experiment.optimiser
    student = build_student(experiment.student, opened.width, experiment.seed)
    pixels = student_pixels(student, experiment.student.image_size)
    feed = build_train_loader(experiment, opened, context, pixels)
    _check_crops(student, feed)
    objective = _drawn_from(
        experiment.seed,
        lambda: build_objective(experiment.objective, _material(experiment, opened, student)),
    )
    student, objective = student.to(context.device), objective.to(context.device)
    learner = TrainModule(
        student, objective, experiment.objective.needs, _autocast(experiment, context)
    )
    optimiser = build_optimiser(config, [student.backbone, student.projector, objective])
    schedule = build_schedule(config, optimiser, feed.steps)
    machinery = TrainState(
        wrap(learner, experiment, context), objective, optimiser, schedule, config.clip_norm
    )
    return Run(
        experiment,
        context,
        opened,
        student,
        pixels,
        machinery,
        feed,
        spent_before(experiment.student),
    )


def _material(experiment: Experiment, opened: OpenAssets, student: Student) -> LossContext:
    features = feature_width(
        student.backbone, experiment.student.backbone, experiment.student.image_size
    )
    return LossContext(
        features=features,
        width=opened.width,
        train_images=len(opened.trained),
        classes=opened.packed.classes,
        anchors=[
            teacher.anchors.embeddings[: experiment.anchors.count] for teacher in opened.teachers
        ],
        temperatures=[teacher.temperature for teacher in opened.teachers],
        centres=None if opened.clusters is None else opened.clusters.centres,
    )


def _drawn_from(seed: int, build: Callable[[], Any]) -> Any:
    """The same first weights on every worker; the global generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 1)  # not the student's own numbers again
        return build()


def _check_crops(student: Student, feed: TrainLoader) -> None:
    """See that the backbone takes images of both sizes of a multi-crop recipe."""
    if feed.small is None:
        return
    name = feed.experiment.student.backbone
    try:
        feature_width(student.backbone, name, feed.small.size)
    except UserError:
        raise UserError(
            f"views.recipe {feed.experiment.shown.recipe} has small crops of {feed.small.size} px, which student.backbone {name} "
            "can't take beside large views; choose a recipe without small_crops or another backbone"
        ) from None


def wrap(learner: TrainModule, experiment: Experiment, context: Context) -> nn.Module:
    """The learner as the loop calls it: memory format, compiled backbone, synchronised batch norm on GPUs, DDP.

    On CPUs batch norm takes the statistics of each worker's share, since torch has no synchronised one there.
    """
    student = learner.student
    if experiment.optimiser.channels_last:
        student.to(memory_format=torch.channels_last)
    if context.world_size > 1 and context.device.type == "cuda":
        synchronise_norms(learner)
    if experiment.optimiser.compile:
        student.backbone.compile()
    return _over_workers(learner, context) if context.world_size > 1 else learner


def synchronise_norms(learner: TrainModule) -> None:
    """Batch norm over the batches of all workers, in place. timm's conversion: torch's would drop the activation of `BatchNormAct2d`."""
    for parent, name in (
        (learner.student, "backbone"),
        (learner.student, "projector"),
        (learner, "objective"),
    ):
        setattr(parent, name, convert_sync_batchnorm(getattr(parent, name)))


def _over_workers(learner: TrainModule, context: Context) -> nn.Module:
    """DDP. The objective's buffers (anchors, queues) are the same on all workers by themselves and need not be sent each step."""
    names = [f"objective.{name}" for name, _ in learner.objective.named_buffers()]
    ddp = nn.parallel.DistributedDataParallel
    ddp._set_params_and_buffers_to_ignore_for_model(learner, names)  # type: ignore[no-untyped-call]
    return ddp(learner, device_ids=[context.device] if context.device.type == "cuda" else None)


def _autocast(
    experiment: Experiment, context: Context
) -> Callable[[], AbstractContextManager[Any]]:
    precision = precision_for(experiment.optimiser.precision, context.device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, context.device.type, dtype=precision)
