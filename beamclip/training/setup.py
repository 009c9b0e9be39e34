"""Build the parts of one run on one worker: student, objective, optimizer, loader."""

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

Autocast = Callable[[], AbstractContextManager[Any]]


class TrainModule(nn.Module):
    """Student and objective as one module: a batch in, the objective's terms out.

    DDP wraps this module, so that it also averages the gradients of the objective's own parameters
    (heads, prototypes) over the workers.

    Args:
        student: the student. Its projector is frozen if the objective does not use embeddings.
        objective: computed in fp32, whatever the student's precision.
        requirements: requirements of the objective.
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
        # Freeze a projector that no loss uses: DDP would wait for its gradients, and weight decay
        # would shrink its weights.
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
        # Losses are computed in fp32, even if the caller has autocast on.
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
        experiment: settings of the run.
        context: context of the worker.
        opened: opened stores of the run.
        student: the student, not wrapped for DDP.
        pixels: format of the student's large views.
        train_state: the objects that change during training.
        loader: maker of the batches.
        initial_cost: training cost of the student this one starts from.
        encoded_before: number of images that teachers in this process had encoded at the last
            count.
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

    Args:
        experiment: settings of the run.
        assets: stores of the run.
        context: context of this worker.

    Raises:
        UserError: a store is damaged, or the objective requires something that the data or the
            student can't provide.
    """
    # Student and data.
    opened = open_assets(assets, experiment.data)
    config = experiment.optimizer
    student = build_student(experiment.student, opened.width, experiment.seed)
    pixels = student_pixels(student, experiment.student.image_size)
    loader = build_train_loader(experiment, opened, context, pixels)
    _check_small_crops(student, loader)

    # Objective. Its random weights come from the seed, and the global generators are left as they
    # were.
    with torch.random.fork_rng(devices=[]):
        # With the student's own seed, the objective would repeat the student's random numbers.
        torch.default_generator.manual_seed(experiment.seed + 1)
        objective = build_objective(
            experiment.objective, _loss_context(experiment, opened, student)
        )

    # Both on the device, with optimizer and schedule. Weights were drawn on the CPU, so that they
    # are the same on every device.
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
    """Return the sizes, anchors and cluster centers that objectives are built from."""
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
        centers=None if opened.clusters is None else opened.clusters.centers,
    )


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
    """Return the module in the form that the loop calls.

    Sets the memory format, converts batch norm, compiles the backbone and wraps for DDP, as far as
    the settings and the number of workers ask for it.

    Batch norm is synchronized on GPUs only: torch has no synchronized batch norm for CPUs. There it
    uses the statistics of each worker's part of the batch.
    """
    student = module.student
    if experiment.optimizer.channels_last:
        student.to(memory_format=torch.channels_last)
    if context.world_size > 1 and context.device.type == "cuda":
        convert_sync_batchnorms(module)
    if experiment.optimizer.compile:
        # In place, unlike torch.compile(), which would change the names in the state dict.
        student.backbone.compile()
    if context.world_size > 1:
        return _wrap_ddp(module, context)
    return module


def convert_sync_batchnorms(module: TrainModule) -> None:
    """Convert all batch norms to synchronized ones, in place.

    timm's conversion is used, because torch's drops the activation of timm's `BatchNormAct2d`. The
    parameters remain the same objects, so an optimizer that was built before still holds them.
    """
    student = module.student
    student.backbone = convert_sync_batchnorm(student.backbone)
    student.projector = convert_sync_batchnorm(student.projector)
    module.objective = convert_sync_batchnorm(module.objective)


def _wrap_ddp(module: TrainModule, context: Context) -> nn.Module:
    # The objective's buffers (anchors, queues) are equal on all workers anyway, so spare DDP their
    # broadcast in every step. torch has only a private function for that.
    names = [f"objective.{name}" for name, _ in module.objective.named_buffers()]
    ddp = nn.parallel.DistributedDataParallel
    ddp._set_params_and_buffers_to_ignore_for_model(module, names)  # type: ignore[no-untyped-call]
    device_ids = [context.device] if context.device.type == "cuda" else None
    return ddp(module, device_ids=device_ids)


def _student_autocast(experiment: Experiment, context: Context) -> Autocast:
    """Return a function that makes the autocast context of a step; it does nothing for fp32."""
    precision = precision_for(experiment.optimizer.precision, context.device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, context.device.type, dtype=precision)
