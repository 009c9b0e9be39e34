"""How students are judged: the protocol of the linear probe, neighbours, few images a class, intervals."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from beamclip.config.base import Count, Positive, Strict

Decay = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(ge=1e-4)]

Protocol = Literal["grid", "clip", "simreg", "swav", "simclr", "seed"]
Normalisation = Literal["standardise", "l2"]

FEW_SHOT = (1, 2, 4, 8, 16)
"""Images a class of the usual curves; what `beamclip evaluate --few-shot` asks for."""


class GridConfig(Strict):
    """The cells of `probe.protocol: grid`: every combination of the three lists, all trained at once."""

    lr: tuple[Positive, ...] = Field((0.1, 0.5), min_length=1)
    """Peak step, as a share of a Newton step's estimate: below 1 it is stable."""
    weight_decay: tuple[Decay, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
    """λ of λ/2 ||W||² beside the mean cross-entropy, over standardised features: 1 / (C · images) of a logistic regression."""
    normalisation: tuple[Normalisation, ...] = Field(("standardise", "l2"), min_length=1)
    """`standardise` each feature over the train images; `l2`: bring each image's features to unit length first."""
    epochs: Count = 4
    """Passes over the train images; more of them where that would be fewer than 50 steps."""
    batch_size: Count = 768


class ProbeConfig(Strict):
    """The same evaluation for every method."""

    protocol: Protocol = "grid"
    """How the linear probe is fitted. `grid`: many settings at once, chosen on val. `clip`: logistic regression by L-BFGS, C chosen on val.
    `simreg`, `swav`, `simclr`, `seed`: the fixed settings of these papers, see docs/methods.md."""
    grid: GridConfig = GridConfig()
    inverse_l2: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] = Field(
        (0.01, 0.1, 1.0, 10.0), min_length=1
    )
    """C of `clip`: the grid that val chooses from."""
    max_iterations: Count = 200
    """Of L-BFGS in `clip`, for each C."""
    train_images: Count | None = None
    """Fit the probe on so many train images, evenly over the classes; default all."""
    knn_k: tuple[Count, ...] = Field((5, 20, 50), min_length=1)
    """Numbers of neighbours that val chooses from, or one number."""
    knn_temperature: Temperature = 0.07
    zero_shot_temperature: Temperature = 0.05
    """τ of the softmax over anchors whose confidence the calibration error of zero-shot judges; the student's own is its τ_S."""
    few_shot: tuple[Count, ...] = ()
    """Also probe with so many train images a class, such as `[1, 2, 4, 8, 16]`; default not at all."""
    few_shot_draws: Count = 5
    """Draws of these images, over which mean and interval are taken."""
    bootstrap: Count = 1000
    """Resamples of the test images behind each 95 % interval. Where all images are right or all wrong it is Wilson's interval."""
    bootstrap_seed: int = Field(0, ge=0)
    untrained: bool = True
    """Also probe the student as it stands before training, once a sweep, to stand beside the trained ones."""

    @field_validator("knn_k", mode="before")
    @classmethod
    def _one_number_is_a_list_of_one(cls, value: Any) -> Any:
        if isinstance(
            value, list
        ):  # what stands before a check of pydantic's is no longer JSON to it
            return tuple(value)
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value
