"""Build the parts of one run on one worker: student, objective, optimizer, loader."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from beamclip.config import Experiment, Requirements, UserError
from beamclip.data.augmentation.render import PixelFormat
from beamclip.data.packed import Ids
from beamclip.data.prefetch import Prefetcher
from beamclip.objectives import LossContext, LossInputs, Objective, build_objective
from beamclip.preparation.assets import Assets, OpenAssets, open_assets
from beamclip.students import Student, TrainingCost, build_student, training_cost_of_init
from beamclip.students.backbones import feature_width
from beamclip.teachers import precision_for
from beamclip.teachers.tower import images_encoded
from beamclip.training.context import Context
from beamclip.training.dataloader import Batch, TrainLoader, build_train_loader
from beamclip.training.evaluate import student_pixels
from beamclip.training.loop import TrainState
from beamclip.training.optimizer import build_optimizer, build_schedule

T = TypeVar("T")
Autocast = Callable[[], AbstractContextManager[Any]]


class TrainModule(nn.Module):
    """Student and objective as one module: a batch in, the objective's terms out.

    DDP wraps this module, so the gradients of the objective's own parameters (heads, prototypes)
    are averaged over the workers with those of the student.

    Args:
        student: trained, without its projector if the objective uses no embeddings.
        objective: runs in full precision, in any precision of the student.
        requirements: of the objective.
        autocast: returns the context manager that sets the student's precision.
    """

    def __init__(
        self, student: Student, objective: Objective, requirements: Requirements, autocast: Autocast
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.autocast = autocast
        self._requirements = requirements
        # DDP does not wait for a projector without gradients, and it does not decay.
        student.projector.requires_grad_(requirements.projected)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective's terms for one worker's part of a step."""
        embeddings = crops = None
        with self.autocast():
            features = self.student.features(batch.images)
            if self._requirements.projected:
                embeddings = self.student.projector(features)
            if batch.crops is not None:
                crops = self.student.features(batch.crops)
        with torch.autocast(batch.images.device.type, enabled=False):
            inputs = LossInputs(
                batch.count,
                features.float(),
                embeddings=None if embeddings is None else embeddings.float(),
                crops=None if crops is None else crops.float(),
                teachers=batch.teachers,
                labels=batch.labels,
                clusters=batch.clusters,
                epoch=batch.epoch,
            )
            terms: dict[str, Tensor] = self.objective(inputs)
            return terms


@dataclass
class Run:
    """One run on one worker.

    Attributes:
        experiment: its settings.
        context: the worker.
        opened: its stores.
        student: the student, not wrapped.
        pixels: format of the student's large views.
        train_state: the objects that change during training.
        loader: makes the batches.
        initial_cost: training cost of the student this one starts from.
        encoded_before: images that teachers of this process had encoded at the last count.
    """

    experiment: Experiment
    context: Context
    opened: OpenAssets
    student: Student
    pixels: PixelFormat
    train_state: TrainState
    loader: TrainLoader
    initial_cost: TrainingCost = field(default_factory=TrainingCost)
    encoded_before: int = field(default_factory=images_encoded)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch."""
        return self.loader.steps

    def batches(self, epoch: int) -> Prefetcher[tuple[int, Ids], Batch]:
        """Return an iterator over this worker's batches of an epoch."""
        return self.loader.batches(epoch)


def build_run(experiment: Experiment, assets: Assets, context: Context) -> Run:
    """Open the stores and build student, objective, optimizer and schedule.

    Every worker builds the same weights.

    Raises:
        UserError: a store is damaged, or the objective needs what data or student can't give.
    """
    opened = open_assets(assets, experiment.data)
    config = experiment.optimizer
    student = build_student(experiment.student, opened.width, experiment.seed)
    pixels = student_pixels(student, experiment.student.image_size)
    loader = build_train_loader(experiment, opened, context, pixels)
    _check_small_crops(student, loader)
    objective = _with_seed(
        experiment.seed,
        lambda: build_objective(experiment.objective, _loss_context(experiment, opened, student)),
    )
    student = student.to(context.device)
    objective = objective.to(context.device)
    module = TrainModule(
        student,
        objective,
        experiment.objective.requirements,
        _student_autocast(experiment, context),
    )
    optimizer = build_optimizer(config, [student.backbone, student.projector, objective])
    schedule = build_schedule(config, optimizer, loader.steps)
    train_state = TrainState(
        network=wrap_for_training(module, experiment, context),
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        clip_norm=config.clip_norm,
    )
    return Run(
        experiment=experiment,
        context=context,
        opened=opened,
        student=student,
        pixels=pixels,
        train_state=train_state,
        loader=loader,
        initial_cost=training_cost_of_init(experiment.student),
    )


def _loss_context(experiment: Experiment, opened: OpenAssets, student: Student) -> LossContext:
    backbone = experiment.student.backbone
    features = feature_width(student.backbone, backbone, experiment.student.image_size)
    count = experiment.anchors.count
    return LossContext(
        features=features,
        width=opened.width,
        train_images=len(opened.trained),
        classes=opened.packed.classes,
        anchors=[teacher.anchors.embeddings[:count] for teacher in opened.teachers],
        temperatures=[teacher.temperature for teacher in opened.teachers],
        centres=None if opened.clusters is None else opened.clusters.centers,
    )


def _with_seed(seed: int, build: Callable[[], T]) -> T:
    """Build an object with seeded random numbers and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[]):
        # Another seed than the student's, which would repeat the student's random numbers.
        torch.default_generator.manual_seed(seed + 1)
        return build()


def _check_small_crops(student: Student, loader: TrainLoader) -> None:
    """Raise UserError if the backbone can't take both image sizes of a multi-crop recipe."""
    if loader.small_pixels is None:
        return
    backbone = loader.experiment.student.backbone
    size = loader.small_pixels.size
    try:
        feature_width(student.backbone, backbone, size)
    except UserError:
        recipe = loader.experiment.student_views.recipe
        raise UserError(
            f"views.recipe {recipe} has small crops of {size} px, which student.backbone "
            f"{backbone} can't take in addition to the large views; choose a recipe without "
            "small_crops or another backbone"
        ) from None


def wrap_for_training(module: TrainModule, experiment: Experiment, context: Context) -> nn.Module:
    """Return the module as the loop calls it: memory format, compilation, batch norm and DDP.

    Batch norm is synchronized on GPUs only. On CPUs, where torch has no synchronized batch norm,
    it uses the statistics of each worker's part of the batch.
    """
    student = module.student
    if experiment.optimizer.channels_last:
        student.to(memory_format=torch.channels_last)
    if context.world_size > 1 and context.device.type == "cuda":
        convert_sync_batchnorms(module)
    if experiment.optimizer.compile:
        student.backbone.compile()
    return _wrap_ddp(module, context) if context.world_size > 1 else module


def convert_sync_batchnorms(module: TrainModule) -> None:
    """Convert all batch norms to synchronized ones, in place.

    Uses timm's conversion, since torch's drops the activation of timm's `BatchNormAct2d`.
    """
    student = module.student
    student.backbone = convert_sync_batchnorm(student.backbone)
    student.projector = convert_sync_batchnorm(student.projector)
    module.objective = convert_sync_batchnorm(module.objective)


def _wrap_ddp(module: TrainModule, context: Context) -> nn.Module:
    # The objective's buffers (anchors, queues) are equal on all workers without being broadcast
    # in every step.
    names = [f"objective.{name}" for name, _ in module.objective.named_buffers()]
    ddp = nn.parallel.DistributedDataParallel
    ddp._set_params_and_buffers_to_ignore_for_model(module, names)  # type: ignore[no-untyped-call]
    return ddp(module, device_ids=[context.device] if context.device.type == "cuda" else None)


def _student_autocast(experiment: Experiment, context: Context) -> Autocast:
    precision = precision_for(experiment.optimizer.precision, context.device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, context.device.type, dtype=precision)
