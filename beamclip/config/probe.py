"""Settings of the evaluation: linear probe, kNN, zero-shot, few-shot and confidence intervals."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializationInfo, field_serializer, field_validator

from beamclip.config.base import Count, Positive, Strict

Decay = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(ge=1e-4)]
InverseL2 = Annotated[float, Field(ge=1e-6, le=1e6)]

Protocol = Literal["grid", "clip", "simreg", "swav", "simclr", "seed"]
Normalization = Literal["standardize", "l2"]

FEW_SHOT = (1, 2, 4, 8, 16)
"""Images per class in the usual few-shot curves; the default of `beamclip evaluate --few-shot`."""
_OLD_SPELLING = "standardise"
"""First name of `standardize`. The keys of older stores depend on it."""


class GridConfig(Strict):
    """The grid of `probe.protocol: grid`: all combinations of three lists, trained together."""

    lr: tuple[Positive, ...] = Field((0.1, 0.5), min_length=1)
    """Peak step size as a share of an estimated Newton step; below 1 training is stable."""
    weight_decay: tuple[Decay, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    """λ of the term λ/2 ‖W‖² that is added to the mean cross-entropy, over standardized features.
    It is 1 / (C · images) in scikit-learn's logistic regression."""
    normalization: tuple[Normalization, ...] = Field(
        ("standardize", "l2"), min_length=1, serialization_alias="normalisation"
    )
    """`standardize` each feature over the train images; `l2`: first scale the features of each
    image to unit length."""
    epochs: Count = 4
    """Passes over the train images; more if that makes fewer than 50 steps."""
    batch_size: Count = 768
    """Images per step."""

    @field_validator("normalization", mode="before")
    @classmethod
    def _accept_old_spelling(cls, names: Any) -> Any:
        if not isinstance(names, list | tuple):
            return names
        # pydantic validates the result as a Python object, and strict mode then needs a tuple.
        return tuple("standardize" if name == _OLD_SPELLING else name for name in names)

    @field_serializer("normalization")
    def _keep_key_parts(self, names: tuple[str, ...], info: SerializationInfo) -> tuple[str, ...]:
        """Return the old spelling in a dump by alias, which store keys are computed from."""
        if not info.by_alias:
            return names
        return tuple(_OLD_SPELLING if name == "standardize" else name for name in names)


class ProbeConfig(Strict):
    """The evaluation. It is the same for every objective."""

    protocol: Protocol = "grid"
    """How the linear probe is fitted. `grid`: with many settings at once; the best on val counts.
    `clip`: logistic regression by L-BFGS, with the best C on val. `simreg`, `swav`, `simclr`,
    `seed`: with the fixed settings of these papers, see docs/methods.md."""
    grid: GridConfig = GridConfig()
    inverse_l2: tuple[InverseL2, ...] = Field((0.01, 0.1, 1.0, 10.0), min_length=1)
    """Values of C for `clip`; the best on val counts."""
    max_iterations: Count = 200
    """L-BFGS iterations of `clip` for each C."""
    train_images: Count | None = None
    """Fit the probe on this many train images, sampled evenly over the classes; default all."""
    knn_k: tuple[Count, ...] = Field((5, 20, 50), min_length=1)
    """Numbers of neighbors, of which the best on val counts; or one number."""
    knn_temperature: Temperature = 0.07
    """Temperature of the neighbors' weights."""
    zero_shot_temperature: Temperature = 0.05
    """τ of the softmax over anchors, for the calibration error of zero-shot classification. The
    student was trained with its own τ_S."""
    few_shot: tuple[Count, ...] = ()
    """Also fit probes on this many train images per class, such as `[1, 2, 4, 8, 16]`; default
    none."""
    few_shot_draws: Count = 5
    """Random samples of these images; mean and interval are over them."""
    bootstrap: Count = 1000
    """Bootstrap resamples of the test images for each 95 % interval. If all images are classified
    correctly, or none, Wilson's interval is used."""
    bootstrap_seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    untrained: bool = True
    """Also evaluate the untrained student once in a sweep, to compare the trained ones with it."""

    @field_validator("knn_k", mode="before")
    @classmethod
    def _accept_one_number(cls, value: Any) -> Any:
        # pydantic validates the result as a Python object, and strict mode then needs a tuple.
        if isinstance(value, list):
            return tuple(value)
        # In Python, True is an int.
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return (value,) if is_number else value
