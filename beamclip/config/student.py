"""Settings of the student, its optimizer, and the resources of one trial."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Count, Positive, Strict

# How the Hugging Face hub and timm's documentation may begin the name of a timm model.
_HUB_PREFIX = re.compile(r"(https://huggingface\.co/|hf[-_]hub:)?timm/")


class StudentConfig(Strict):
    """A timm backbone, and a projector from its features to the teacher's embedding space."""

    backbone: str = "resnet18"
    """Name of a timm model, also as the Hugging Face hub writes it: `timm/resnet18.a1_in1k`."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of the student's views in px."""
    init: str = "random"
    """First weights: `random`, `pretrained` (timm's), the path or URL of a `student.safetensors`
    written by beamclip, or `run:ID`, the MLflow run that trained it. From a student, the backbone
    is loaded, and the projector too if it has the same shape."""
    weight_init: Literal["timm", "torch"] = Field("timm", serialization_alias="drawn")
    """How random weights of the backbone are initialized. `timm`: by timm's own code, which makes
    the residual blocks of a ResNet start as the identity. `torch`: every layer by torch's default,
    as in a network that is written from scratch."""
    projector: Literal["linear", "mlp", "mlp4"] = "mlp"
    """Architecture of the projector; `mlp4` is SimReg's with four layers."""
    projector_width: Count = 1024
    """Hidden width of the `mlp` projector."""
    small_image_stem: Literal["auto", "always", "never"] = "auto"
    """Use a first convolution of 3×3 with stride 1 and no max-pooling, as in the CIFAR literature;
    `auto`: at 64 px and below."""

    @field_validator("backbone")
    @classmethod
    def _drop_timm_prefix(cls, backbone: str) -> str:
        """Return timm's own name for a name as the hub writes it.

        timm fetches the weights of `resnet18.a1_in1k` from the hub's `timm/resnet18.a1_in1k`. With
        one name for both, they share stores and rows of tables.
        """
        prefix = _HUB_PREFIX.match(backbone)
        return backbone[prefix.end() :] if prefix else backbone


class OptimizerConfig(Strict):
    """The optimizer and its schedule. `lr` is used as it is, never scaled by the batch size."""

    name: Literal["sgd", "adamw", "lars"] = "adamw"
    """Name of the optimizer."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of the parameters that `decay` selects."""
    decay: Literal["matrices", "all"] = "matrices"
    """Which parameters have weight decay. `matrices`: all except norms, biases and other
    one-dimensional parameters, and those that a timm model excludes (class tokens, position
    embeddings). `all`: all, as in a torch optimizer with one parameter group."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd` and `lars`."""
    epochs: Count = 20
    """Epochs to train."""
    warmup_epochs: float = Field(1.0, ge=0)
    """Epochs of linear warm-up before the cosine schedule; may be a fraction."""
    batch_size: Count = 256
    """Images per step, summed over *all* workers."""
    clip_norm: Positive | None = None
    """Clip gradients to this norm; default not at all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast if the device supports it in hardware, else fp32."""
    channels_last: bool = True
    """Use torch's channels-last memory format."""
    compile: bool = False
    """Use `torch.compile`."""

    @model_validator(mode="after")
    def _check_schedule(self) -> "OptimizerConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs; "
                "lower warmup_epochs or raise epochs"
            )
        # timm's LARS has a trust ratio only for parameters with weight decay.
        if self.name == "lars" and not self.weight_decay:
            raise ValueError(
                "weight_decay is 0, so LARS would have no trust ratios and be plain SGD; "
                "set it above 0 or use sgd"
            )
        return self


class ScalingConfig(Strict):
    """Resources of one trial."""

    workers: Count = 1
    """DDP workers of one trial."""
    cpus_per_worker: Positive = 1.0
    """CPU cores per worker; may be a fraction."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per worker; with a fraction several trials share a GPU."""
    max_concurrent: Count | None = None
    """Most trials that run at once; default as many as the cluster has room for."""
    resident: Literal["auto", "always", "never"] = "auto"
    """Keep training images and embeddings in device memory, so that making a batch is one
    indexing operation on it. `auto`: on a GPU, if they take less than half of the free memory."""
    max_failures: int = Field(2, ge=0)
    """How often a trial resumes from its last checkpoint after a worker or node was lost."""

    def check_gpus(self) -> None:
        """Check that a fractional `gpus_per_worker` is possible.

        Raises:
            ValueError: gpus_per_worker is fractional and above 1 (unsupported by Ray), or below 1
                with several workers (NCCL needs one GPU for each rank).
        """
        if self.gpus_per_worker % 1 and (self.gpus_per_worker > 1 or self.workers > 1):
            raise ValueError(
                f"scaling.gpus_per_worker {self.gpus_per_worker:g} is a fraction, which only a "
                "single worker (scaling.workers=1) with less than one GPU may have; give whole GPUs"
            )
