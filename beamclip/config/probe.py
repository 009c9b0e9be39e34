"""Settings of the evaluation: linear probe, kNN, few-shot probes and confidence intervals."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializationInfo, field_serializer, field_validator

from beamclip.config.base import Count, Positive, Strict

Decay = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(ge=1e-4)]
InverseL2 = Annotated[float, Field(ge=1e-6, le=1e6)]

Protocol = Literal["grid", "clip", "simreg", "swav", "simclr", "seed"]
Normalization = Literal["standardize", "l2"]

FEW_SHOT = (1, 2, 4, 8, 16)
"""Images a class of the usual few-shot curves; the default of `beamclip evaluate --few-shot`."""
_OLD_SPELLING = "standardise"


class GridConfig(Strict):
    """The grid of `probe.protocol: grid`: all combinations of the three lists, trained at once."""

    lr: tuple[Positive, ...] = Field((0.1, 0.5), min_length=1)
    """Peak step, as a share of an estimated Newton step: below 1 it is stable."""
    weight_decay: tuple[Decay, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    """λ of λ/2 ||W||² added to the mean cross-entropy, over standardized features: 1 / (C · images)
    of a logistic regression."""
    normalization: tuple[Normalization, ...] = Field(
        ("standardize", "l2"), min_length=1, serialization_alias="normalisation"
    )
    """`standardize` each feature over the train images; `l2`: first scale the features of each
    image to unit length."""
    epochs: Count = 4
    """Passes over the train images; more if that would be fewer than 50 steps."""
    batch_size: Count = 768
    """Images of a step."""

    @field_validator("normalization", mode="before")
    @classmethod
    def _accept_old_spelling(cls, names: Any) -> Any:
        # What a before-validator returns is validated as Python, where a tuple must be a tuple.
        if not isinstance(names, list | tuple):
            return names
        return tuple("standardize" if name == _OLD_SPELLING else name for name in names)

    @field_serializer("normalization")
    def _keep_key_parts(self, names: tuple[str, ...], info: SerializationInfo) -> tuple[str, ...]:
        """Return the old spelling where a store's key is computed, see `Strict.key_parts`."""
        if not info.by_alias:
            return names
        return tuple(_OLD_SPELLING if name == "standardize" else name for name in names)


class ProbeConfig(Strict):
    """The evaluation, which is the same for every method."""

    protocol: Protocol = "grid"
    """How the linear probe is fitted. `grid`: many settings at once, selected on val. `clip`:
    logistic regression by L-BFGS, C selected on val. `simreg`, `swav`, `simclr`, `seed`: the fixed
    settings of these papers, see docs/methods.md."""
    grid: GridConfig = GridConfig()
    inverse_l2: tuple[InverseL2, ...] = Field((0.01, 0.1, 1.0, 10.0), min_length=1)
    """C of `clip`: the values to select from on val."""
    max_iterations: Count = 200
    """L-BFGS iterations of `clip`, for each C."""
    train_images: Count | None = None
    """Fit the probe on this many train images, sampled evenly over the classes; default all."""
    knn_k: tuple[Count, ...] = Field((5, 20, 50), min_length=1)
    """Numbers of neighbors to select from on val, or one number."""
    knn_temperature: Temperature = 0.07
    """Temperature of the neighbors' weights."""
    zero_shot_temperature: Temperature = 0.05
    """τ of the softmax over anchors that the calibration error of zero-shot is computed from; the
    student's own is its τ_S."""
    few_shot: tuple[Count, ...] = ()
    """Also fit probes on this many train images a class, such as `[1, 2, 4, 8, 16]`; default
    none."""
    few_shot_draws: Count = 5
    """Random samples of these images, for mean and interval."""
    bootstrap: Count = 1000
    """Bootstrap resamples of the test images for each 95 % interval. If all images are right or all
    are wrong, Wilson's interval is used."""
    bootstrap_seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    untrained: bool = True
    """Also evaluate the untrained student once in a sweep, to compare the trained ones with it."""

    @field_validator("knn_k", mode="before")
    @classmethod
    def _accept_one_number(cls, value: Any) -> Any:
        # What a before-validator returns is validated as Python, where a tuple must be a tuple.
        if isinstance(value, list):
            return tuple(value)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return (value,) if is_number else value
