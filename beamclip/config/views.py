"""Recipes: the distributions views are drawn from."""

from typing import Annotated

from pydantic import Field, model_validator

from beamclip.config.base import Strict

Probability = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Recipe(Strict):
    """One distribution of views. All random choices are uniform in the ranges given.

    The defaults are the canonical view: the whole stored square, nothing random.
    """

    area: Interval = (1.0, 1.0)
    """Share of the stored image's area that a crop covers, (low, high] in (0, 1]."""
    ratio: Interval = (1.0, 1.0)
    """Width over height of a crop, drawn log-uniformly."""
    flip: Probability = 0.0
    jitter: Probability = 0.0
    """Chance that brightness, contrast, saturation and hue are changed, in random order."""
    brightness: float = Field(0.0, ge=0, le=1)
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)
    grey: Probability = 0.0
    blur: Probability = 0.0
    blur_sigma: Interval = (0.1, 2.0)
    """Gaussian σ in pixels of a 224-px image; it scales with the image's side, so that all resolutions see the same blur."""
    small_crops: int = Field(0, ge=0, le=32)
    """Multi-crop (SwAV): so many small crops beside the two large ones."""
    small_area: Interval = (0.05, 0.14)
    small_side: float = Field(96 / 224, gt=0, le=1)
    """Side of a small crop as a share of the student's image size."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "Recipe":
        for name in ("area", "ratio", "blur_sigma", "small_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(
                    f"{name} runs from {low} down to {high}; write the smaller number first"
                )
        if max(self.area[1], self.small_area[1]) > 1:
            raise ValueError("area and small_area are shares of the image and can't be above 1")
        return self

    @property
    def random(self) -> bool:
        """False for the canonical view, which is the same whatever the view id."""
        chances = (self.flip, self.jitter, self.grey, self.blur, self.small_crops)
        return any(chances) or self.area != (1.0, 1.0) or self.ratio != (1.0, 1.0)

    def scaled(self, strength: float) -> "Recipe":
        """The same recipe, going `strength` times as far from the canonical view; at 1 it is this very object.

        Crops: the lower end of `area` goes to 1 - strength · (1 - low), not below 0.02 (or what it was) and not above the upper end,
        which stays; `ratio` is raised to the power of `strength`. Colours: the four ranges are multiplied, up to the largest allowed.
        Blur: the upper end of `blur_sigma` is multiplied as a distance from the lower one. Chances and small crops stay, and so do the
        numbers of what has no chance, so that recipes that draw the same views are equal. At 0 only `flip` is left.

        Args:
            strength: 0 or more.
        """
        if strength == 1:
            return self
        if strength == 0:
            return Recipe(flip=self.flip)
        changes: dict[str, object] = {
            "area": self._scaled_area(strength),
            "ratio": tuple(_rounded(end**strength) for end in self.ratio),
        }
        if self.jitter:
            changes |= {
                name: _rounded(min(getattr(self, name) * strength, most))
                for name, most in _COLOURS.items()
            }
        if self.blur:
            low, high = self.blur_sigma
            changes["blur_sigma"] = (low, _rounded(low + strength * (high - low)))
        return Recipe.model_validate(self.model_dump() | changes)

    def _scaled_area(self, strength: float) -> tuple[float, float]:
        low, high = self.area
        return min(max(_rounded(1 - strength * (1 - low)), min(low, _SMALLEST_AREA)), high), high


_SMALLEST_AREA = 0.02
_COLOURS = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}


def _rounded(number: float) -> float:
    """Without the last digits, in which the same product may differ with the order of its factors: they would be another store."""
    return round(number, 9)


_RATIO = (3 / 4, 4 / 3)
_SIMCLR = Recipe(
    area=(0.08, 1.0),
    ratio=_RATIO,
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grey=0.2,
    blur=0.5,
)

RECIPES: dict[str, Recipe] = {
    "center": Recipe(),
    "weak": Recipe(area=(0.2, 1.0), ratio=_RATIO, flip=0.5),
    "simclr": _SIMCLR,
    # SimCLR's own code for CIFAR: half the jitter, no blur.
    "simclr_small": _SIMCLR.model_copy(
        update={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "blur": 0.0}
    ),
    "multicrop": _SIMCLR.model_copy(update={"area": (0.14, 1.0), "small_crops": 6}),
}
