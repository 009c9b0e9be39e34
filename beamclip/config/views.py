"""Settings of views, and recipes, the distributions that views are sampled from."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import nearest

Probability = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

_MIN_AREA = 0.02
"""Smallest area of a crop that `Recipe.scaled` makes, as a share of the image."""
_MAX_JITTER = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
"""Upper bounds of the color settings of `Recipe`."""


class Recipe(Strict):
    """One distribution of views. Random numbers are uniform in the ranges given.

    The defaults are the canonical view: the whole stored square, nothing random.
    """

    area: Interval = (1.0, 1.0)
    """Share of the stored image's area that a crop covers, (low, high] in (0, 1]."""
    ratio: Interval = (1.0, 1.0)
    """Width over height of a crop, sampled log-uniformly."""
    flip: Probability = 0.0
    """Probability of a horizontal flip."""
    jitter: Probability = 0.0
    """Probability that brightness, contrast, saturation and hue are changed, in random order."""
    brightness: float = Field(0.0, ge=0, le=1)
    """Largest change of the brightness factor, which is around 1."""
    contrast: float = Field(0.0, ge=0, le=1)
    """Largest change of the contrast factor, which is around 1."""
    saturation: float = Field(0.0, ge=0, le=1)
    """Largest change of the saturation factor, which is around 1."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Largest shift of the hue; 1 is a full turn of the color circle."""
    gray: Probability = Field(0.0, serialization_alias="grey")
    """Probability that the view is converted to grayscale."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Interval = (0.1, 2.0)
    """σ of the blur in px for an image of 224 px. It is scaled to the image's side, so that all
    resolutions are blurred alike."""
    small_crops: int = Field(0, ge=0, le=32)
    """Multi-crop (SwAV): number of small crops in addition to the two large ones."""
    small_area: Interval = (0.05, 0.14)
    """Share of the stored image's area that a small crop covers."""
    small_side: float = Field(96 / 224, gt=0, le=1)
    """Side of a small crop as a share of the student's image size."""

    @model_validator(mode="after")
    def _check_ranges(self) -> "Recipe":
        for name in ("area", "ratio", "blur_sigma", "small_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]; write the smaller number first")
        if max(self.area[1], self.small_area[1]) > 1:
            raise ValueError("area and small_area are shares of the image and can't be above 1")
        return self

    @property
    def random(self) -> bool:
        """True if views differ; False if every view is the canonical one."""
        chances = (self.flip, self.jitter, self.gray, self.blur, self.small_crops)
        return any(chances) or self.area != (1.0, 1.0) or self.ratio != (1.0, 1.0)

    def scaled(self, strength: float) -> "Recipe":
        """Return a recipe whose views are `strength` times as far from the canonical view.

        - Crops: the lower end of `area` becomes 1 - strength · (1 - low). It is at least 0.02, or
          `low` if that is smaller, and at most the upper end, which does not change. `ratio` is
          raised to the power of `strength`.
        - Colors: the four ranges are multiplied by `strength`, up to their bounds.
        - Blur: the distance between the ends of `blur_sigma` is multiplied by `strength`.

        Probabilities and small crops do not change. Nor do ranges whose probability is 0, so that
        recipes with the same views are equal. At strength 0 only `flip` is left.

        Args:
            strength: 0 or more. At 1, this object itself is returned.
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
            for name, limit in _MAX_JITTER.items():
                changes[name] = _rounded(min(getattr(self, name) * strength, limit))
        if self.blur:
            low, high = self.blur_sigma
            changes["blur_sigma"] = (low, _rounded(low + strength * (high - low)))
        return Recipe.model_validate(self.model_dump() | changes)

    def _scaled_area(self, strength: float) -> tuple[float, float]:
        low, high = self.area
        scaled_low = _rounded(1 - strength * (1 - low))
        smallest = min(low, _MIN_AREA)
        return min(max(scaled_low, smallest), high), high


def _rounded(number: float) -> float:
    """Return the number rounded to 9 decimals.

    The last bits of a result depend on the order of operations. Without rounding, recipes that are
    mathematically equal could differ in them and would not share a store.
    """
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
    gray=0.2,
    blur=0.5,
)
# SimCLR's own code for CIFAR uses half the jitter and no blur.
_SIMCLR_SMALL = _SIMCLR.model_copy(
    update={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "blur": 0.0}
)

RECIPES: dict[str, Recipe] = {
    "center": Recipe(),
    "weak": Recipe(area=(0.2, 1.0), ratio=_RATIO, flip=0.5),
    "simclr": _SIMCLR,
    "simclr_small": _SIMCLR_SMALL,
    "multicrop": _SIMCLR.model_copy(update={"area": (0.14, 1.0), "small_crops": 6}),
}
"""The built-in recipes by name."""


class ViewsConfig(Strict):
    """Which views the student is trained on, and which of them the teacher encodes."""

    recipe: str = "weak"
    """The recipe that views are sampled from: a built-in one or one of `custom`."""
    pair_recipe: str | None = None
    """The recipe for objectives that compare several views of an image, such as `simclr` and
    `swav`; default `recipe`."""
    custom: dict[str, Recipe] = {}
    """Your own recipes by name; `recipe` may then name them."""
    strength: float = Field(1.0, ge=0, le=2)
    """How far views are from the canonical view. 1: as the recipe says; 2: twice as far; 0: at most
    flipped. Probabilities stay the same."""
    stored: int = Field(4, ge=1, le=1000)
    """Views of each sample that are embedded by the teacher; epochs cycle through them."""
    seed: int = Field(0, ge=0)
    """Seed of the views. It is not the run's seed, so that runs with different seeds share one
    teacher pass."""
    teacher: Literal["same", "center", "live"] = "same"
    """`same`: the teacher encodes the views the student is trained on. `center`: it encodes the
    canonical view of each image once, for all recipes. `live`: it runs during training, so that no
    view is repeated; each trial then pays for its own teacher pass."""

    @field_validator("custom")
    @classmethod
    def _check_custom_names(cls, custom: dict[str, Recipe]) -> dict[str, Recipe]:
        taken = sorted(set(custom) & set(RECIPES))
        if taken:
            raise ValueError(f"{taken[0]} is the name of a built-in recipe; choose another name")
        return custom

    @model_validator(mode="after")
    def _check_recipes_exist(self) -> "ViewsConfig":
        known = RECIPES | self.custom
        for name in (self.recipe, self.pair_recipe or self.recipe):
            if name not in known:
                raise ValueError(f"recipe {name} does not exist{nearest(name, known)}")
        return self

    def resolve(self) -> Recipe:
        """Return the recipe with the name `recipe`, scaled by `strength`.

        Stores depend on this result, not on the name and the strength. So different settings that
        resolve to equal recipes share a store.
        """
        recipes = RECIPES | self.custom
        return recipes[self.recipe].scaled(self.strength)

    def views_of(self, epoch: int, count: int = 1, stored: bool = True) -> tuple[int, ...]:
        """Return the ids of the views that the student is trained on in an epoch.

        Args:
            epoch: number of the epoch, from 0.
            count: number of views of each image.
            stored: whether the teacher's stored embeddings of these views are needed. With
                `teacher: same`, the ids then cycle through 0 to `self.stored` - 1. Otherwise every
                epoch has new views.
        """
        # A recipe that is not random has only one view, with id 0.
        if not self.resolve().random:
            return (0,) * count
        views = range(epoch * count, (epoch + 1) * count)
        if stored and self.teacher == "same":
            return tuple(view % self.stored for view in views)
        return tuple(views)
