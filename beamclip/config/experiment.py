"""What an experiment is: one frozen tree of checked values. Nothing here needs torch, ray or a network."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.errors import nearest
from beamclip.config.views import RECIPES, Recipe, Strict

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

PROMPT_SETS = ("plain", "openai_7", "openai_80")
OBJECTIVES = ("csm",)


class DataConfig(Strict):
    """Which images, and how they are kept."""

    source: Literal["auto", "demo", "folder", "parquet", "cifar10", "cifar100"] = "auto"
    """`auto` looks at what `path` holds."""
    path: str | None = None
    """Folder of the images; `--data` sets it."""
    class_names: str | None = None
    """A text file, one class name a line, in label order; needed where the source names no classes."""
    download: bool = False
    """Let torchvision fetch CIFAR into `path`."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of the stored square in px: the shorter side is resized to it, the middle is kept."""
    train_images: Count | None = None
    """Train on so many images only, drawn evenly over the classes; default all."""
    val_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of *train* held out to choose on, drawn evenly over the classes."""
    split_seed: int = Field(0, ge=0)
    """Seed of the split into train and val."""
    broken_fraction: float = Field(0.01, ge=0, lt=1)
    """A larger share of unreadable images than this fails the pack."""


class ViewsConfig(Strict):
    """Which views the student sees, and which of them the teacher saw."""

    recipe: str = "weak"
    """The distribution views are drawn from: a built-in recipe or one of `custom`."""
    custom: dict[str, Recipe] = {}
    """Recipes of your own by name; `recipe` may then name them."""
    stored: int = Field(4, ge=1, le=1000)
    """Views of each sample that are drawn and embedded; epochs cycle through them."""
    seed: int = Field(0, ge=0)
    """Seed of the views; apart from the run's, so that several seeds share one teacher pass."""
    teacher: Literal["same", "center"] = "same"
    """`same`: the teacher sees the student's view. `center`: it sees the canonical view once, for every recipe."""

    @field_validator("custom")
    @classmethod
    def _custom_names_are_new(cls, custom: dict[str, Recipe]) -> dict[str, Recipe]:
        taken = sorted(set(custom) & set(RECIPES))
        if taken:
            raise ValueError(f"{taken[0]} is the name of a built-in recipe; choose another name")
        return custom

    @model_validator(mode="after")
    def _recipe_exists(self) -> "ViewsConfig":
        known = RECIPES | self.custom
        if self.recipe not in known:
            raise ValueError(f"recipe {self.recipe} does not exist{nearest(self.recipe, known)}")
        return self

    def resolve(self) -> Recipe:
        """The recipe that `recipe` names."""
        return (RECIPES | self.custom)[self.recipe]


class TeacherConfig(Strict):
    """A frozen CLIP: an open_clip model name with a tag, `local-dir:FOLDER`, `hf-hub:NAME`, or `demo`."""

    model: str = "ViT-B-32"
    pretrained: str | None = None
    """open_clip's tag (or a weights file); unused with a folder, a hub name or the demo."""
    batch_size: Count = 256
    """Images the teacher encodes at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that has it in hardware, else fp32."""


class AnchorsConfig(Strict):
    """How class names become anchors."""

    prompt_set: Literal["plain", "openai_7", "openai_80"] = "openai_7"
    """`plain`: a photo of a {name}. The others: OpenAI's 7 and 80 templates, averaged."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Match over the first so many classes only; default all. Zero-shot is always scored over all."""


class StudentConfig(Strict):
    """A timm backbone and the projector that carries its features to the teacher's width."""

    backbone: str = "resnet18"
    """Any timm model."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of its views in px."""
    init: str = "random"
    """`random`, `pretrained` (timm's weights), or the path of a `student.safetensors` of ours."""
    projector: Literal["linear", "mlp"] = "mlp"
    projector_width: Count = 1024
    """Hidden width of the `mlp` projector."""
    small_image_stem: Literal["auto", "always", "never"] = "auto"
    """3×3 stride-1 first convolution and no max-pool, as the CIFAR literature does; `auto`: at 64 px and below."""


class ObjectiveConfig(Strict):
    """What the student minimises."""

    name: Literal["csm"] = "csm"
    """`csm`: cross-modal similarity matching."""
    teacher_temperature: Positive = 0.05
    """τ_T: low passes on the winning anchor only, high the whole ranking."""
    student_temperature: Positive = 0.05
    """τ_S: low lets small differences between cosines say much."""


class OptimiserConfig(Strict):
    """How it is minimised. `lr` is what the optimiser gets: it is never scaled by a batch size behind your back."""

    name: Literal["sgd", "adamw", "lars"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: float = Field(1e-4, ge=0)
    """Not applied to norms, biases and other one-dimensional parameters."""
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


class ProbeConfig(Strict):
    """The same evaluation for every method."""

    inverse_l2: tuple[Positive, ...] = Field((0.01, 0.1, 1.0, 10.0), min_length=1)
    """C of the logistic regression: the grid that val chooses from."""
    max_iterations: Count = 200
    train_images: Count | None = None
    """Fit the probe on so many train images, evenly over the classes; default all."""
    knn_k: Count = 20
    knn_temperature: Positive = 0.07
    untrained: bool = True
    """Also probe the student as it stands before training, once a sweep, to stand beside the trained ones."""


class ScalingConfig(Strict):
    """What one trial gets."""

    workers: Count = 1
    """DDP workers of one trial."""
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: float = Field(0.0, ge=0)
    max_concurrent: Count | None = None
    """Trials at once; default as many as the cluster holds."""
    max_failures: int = Field(2, ge=0)
    """Times a trial goes on from its last checkpoint after a worker or node was lost."""


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

    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    teacher: TeacherConfig = TeacherConfig()
    anchors: AnchorsConfig = AnchorsConfig()
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
        if self.student.image_size > self.data.image_size:
            raise ValueError(
                f"student.image_size {self.student.image_size} is larger than the stored images of "
                f"data.image_size {self.data.image_size}; store larger images or train on smaller ones"
            )
        if self.data.source == "demo" and self.data.path is not None:
            raise ValueError("data.source is demo, which needs no data.path; drop one of the two")
        return self
