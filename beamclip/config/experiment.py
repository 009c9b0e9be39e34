"""What an experiment is: one frozen tree of checked values. Nothing here needs torch, ray or a network."""

from typing import Literal

from pydantic import Field, model_validator

from beamclip.config.balance import BalanceConfig
from beamclip.config.inputs import AnchorsConfig, DataConfig, ViewsConfig
from beamclip.config.numbers import Count, Positive
from beamclip.config.objectives import ObjectiveConfig
from beamclip.config.probe import ProbeConfig
from beamclip.config.towers import TeacherConfig, TowerConfig
from beamclip.config.views import Strict


class StudentConfig(Strict):
    """A timm backbone and the projector that carries its features to the teacher's width."""

    backbone: str = "resnet18"
    """Any timm model."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of its views in px."""
    init: str = "random"
    """`random`, `pretrained` (timm's weights), the path or URL of a `student.safetensors` of ours, or `run:ID`, the MLflow run that trained
    it. Its backbone is what counts: a projector of another shape is drawn anew."""
    projector: Literal["linear", "mlp", "mlp4"] = "mlp"
    """`mlp4` is SimReg's: four layers of its own widths."""
    projector_width: Count = 1024
    """Hidden width of the `mlp` projector."""
    small_image_stem: Literal["auto", "always", "never"] = "auto"
    """3×3 stride-1 first convolution and no max-pool, as the CIFAR literature does; `auto`: at 64 px and below."""


class OptimiserConfig(Strict):
    """How it is minimised. `lr` is what the optimiser gets: it is never scaled by a batch size behind your back."""

    name: Literal["sgd", "adamw", "lars"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: float = Field(1e-4, ge=0)
    """Not applied to norms, biases and other one-dimensional parameters, nor to what a timm model spares (class tokens, positions)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    epochs: Count = 20
    warmup_epochs: float = Field(1.0, ge=0)
    batch_size: Count = 256
    """Images a step over *all* workers."""
    clip_norm: Positive | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast where the device has it in hardware, else fp32."""
    channels_last: bool = True
    compile: bool = False

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> "OptimiserConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs; lower it or train longer")
        if self.name == "lars" and not self.weight_decay:
            raise ValueError("weight_decay is 0, with which LARS scales nothing and is plain SGD; set it above 0 or use sgd")
        return self


class ScalingConfig(Strict):
    """What one trial gets."""

    workers: Count = 1
    """DDP workers of one trial."""
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: float = Field(0.0, ge=0)
    max_concurrent: Count | None = None
    """Trials at once; default as many as the cluster holds."""
    resident: Literal["auto", "always", "never"] = "auto"
    """Keep training images and embeddings in the device's memory, so that a batch is a gather there. `auto`: on a GPU, where they take
    less than half of what is free."""
    max_failures: int = Field(2, ge=0)
    """Times a trial goes on from its last checkpoint after a worker or node was lost."""

    def check_gpus(self) -> None:
        """See that whole workers get whole GPUs where that is needed.

        Raises:
            ValueError: a fraction above 1, which Ray gives nobody, or one below where several workers of a trial would meet on one GPU,
                which NCCL refuses.
        """
        if self.gpus_per_worker % 1 and (self.gpus_per_worker > 1 or self.workers > 1):
            raise ValueError(
                f"scaling.gpus_per_worker {self.gpus_per_worker:g} is a fraction, which only a single worker (scaling.workers=1) with less "
                "than one GPU can have; give whole GPUs"
            )


class StorageConfig(Strict):
    """Where stores and runs are kept."""

    path: str | None = None
    """Folder or URI for runs and checkpoints; default $BEAMCLIP_STORAGE, else ~/beamclip."""
    cache: str | None = None
    """Folder all nodes see for stores; default $BEAMCLIP_CACHE, else `stores` in the storage folder."""
    keep_checkpoints: Count = 1


class TrackingConfig(Strict):
    """Where results are written."""

    uri: str | None = None
    """MLflow tracking URI; default a sqlite file beside the artifacts."""


class Experiment(Strict):
    """One run, or the settings all trials of a sweep share."""

    seed: int = Field(0, ge=0, le=2**62)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    teacher: TeacherConfig = TeacherConfig()
    anchors: AnchorsConfig = AnchorsConfig()
    balance: BalanceConfig = BalanceConfig()
    student: StudentConfig = StudentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    probe: ProbeConfig = ProbeConfig()
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Experiment":
        batch, workers = self.optimiser.batch_size, self.scaling.workers
        if batch % workers:
            raise ValueError(
                f"optimiser.batch_size {batch} can't be shared evenly by scaling.workers {workers}; "
                f"{batch - batch % workers or workers} can"
            )
        if batch == workers:
            raise ValueError(
                f"optimiser.batch_size {batch} gives each of scaling.workers {workers} one image, which batch norm has no statistics of "
                f"and no image can be compared with; give {2 * workers} or more"
            )
        self.scaling.check_gpus()
        if self.student.image_size > self.data.image_size:
            raise ValueError(
                f"student.image_size {self.student.image_size} is larger than the stored images of "
                f"data.image_size {self.data.image_size}; store larger images or train on smaller ones"
            )
        if self.data.source == "demo" and self.data.path is not None:
            raise ValueError("data.source is demo, which needs no data.path; drop one of the two")
        for other in self.teacher.others:
            if other.prompt_set is not None:
                self.anchors.members(other.prompt_set)
        self._has_enough_views()
        return self

    @property
    def shown(self) -> ViewsConfig:
        """The views that the student is shown: `views`, of `views.pair_recipe` where the objective compares several of an image."""
        pair = self.views.pair_recipe
        if self.objective.needs.views == 1 or pair is None:
            return self.views
        return self.views.model_copy(update={"recipe": pair})

    @property
    def teachers(self) -> tuple[TowerConfig, ...]:
        """Those that the objective listens to; the first one is always among them."""
        return self.teacher.all() if self.objective.needs.all_teachers else (self.teacher,)

    def _has_enough_views(self) -> None:
        needs, views = self.objective.needs, self.shown
        if needs.views > 1 and not views.resolve().random:
            key = "views.recipe" if self.views.pair_recipe is None else "views.pair_recipe"
            raise ValueError(
                f"objective.name {self.objective.name} compares {needs.views} views of an image, but those of {key} {views.recipe} "
                "are all the same; choose another recipe"
            )
        if needs.embeddings and needs.views > views.stored and views.teacher == "same":
            raise ValueError(
                f"objective.name {self.objective.name} needs the teacher's embeddings of {needs.views} views of each image, but "
                f"views.stored is {views.stored}; raise it, or set views.teacher to center"
            )
