"""The student, how it is optimised, and what one trial gets to do so."""

from typing import Literal

from pydantic import Field, model_validator

from beamclip.config.base import Count, Positive, Strict


class StudentConfig(Strict):
    """A timm backbone and the projector that carries its features to the teacher's width."""

    backbone: str = "resnet18"
    """Any timm model."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of its views in px."""
    init: str = "random"
    """`random`, `pretrained` (timm's weights), the path or URL of a `student.safetensors` of ours, or `run:ID`, the MLflow run that trained
    it. Its backbone is what counts: a projector of another shape is drawn anew."""
    drawn: Literal["timm", "torch"] = "timm"
    """How random weights of the backbone are drawn. `timm`: as its own code does, by which a ResNet's blocks do nothing at first. `torch`:
    every layer as torch does by itself, as where a network is written down and trained."""
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
    """Of what `decay` names."""
    decay: Literal["matrices", "all"] = "matrices"
    """`matrices`: not norms, biases and other one-dimensional parameters, nor what a timm model spares (class tokens, positions).
    `all`: these too, as where torch's optimiser was given all parameters alike."""
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
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs; lower it or train longer"
            )
        if self.name == "lars" and not self.weight_decay:
            raise ValueError(
                "weight_decay is 0, with which LARS scales nothing and is plain SGD; set it above 0 or use sgd"
            )
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
