"""The part of an experiment that decides, beside the teachers, what is stored: images, views, anchors."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Count, Strict
from beamclip.config.errors import nearest
from beamclip.config.prompts import PromptSet, built_in_prompt_sets, members_of
from beamclip.config.views import RECIPES, Recipe

# Which of the training images students are trained on.


class BalanceConfig(Strict):
    """Image semantic balance (CLIP-CID): of each set of images that are much alike to the teacher, students are trained on one."""

    threshold: float | None = Field(None, gt=0, le=2)
    """Join images whose cosine distance is below this; off by default. CLIP-CID's authors used 0.1 with a later encoder."""
    remove: float | None = Field(None, ge=0, lt=1)
    """Or the share of the images to leave out, for which the threshold is found; 0 leaves out none. CLIP-CID's is 0.437."""
    search: Literal["auto", "exact", "index"] = "auto"
    """How near neighbours are found: every pair compared, or an index of faiss; `auto`: exact up to 100,000 images."""
    neighbours: int = Field(32, ge=1, le=1024)
    """Of each image, that the index looks for."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "BalanceConfig":
        if self.threshold is not None and self.remove is not None:
            raise ValueError(
                "threshold and remove are both given, but one follows from the other; give one of them"
            )
        return self

    @property
    def active(self) -> bool:
        """Whether anything may be left out."""
        return self.threshold is not None or bool(self.remove)


class DataConfig(Strict):
    """Which images, and how they are kept."""

    source: Literal["auto", "demo", "folder", "parquet", "tar", "cifar10", "cifar100"] = "auto"
    """`auto` looks at what `path` holds."""
    path: str | None = None
    """Folder of the images, or an fsspec URL such as `s3://bucket/folder`; `--data` sets it."""
    class_names: str | None = None
    """A text file, one class name a line, in label order; needed where the source names no classes. Behind a name and a tab, a WordNet
    id or words of yours may say what is meant."""
    download: bool = False
    """Let torchvision fetch CIFAR into `path`."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of the stored square in px: the shorter side is resized to it, the middle is kept. `jpeg` keeps smaller ones as they are."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How they are stored: `raw` pixels, quickest to read, or `jpeg` files, a tenth of the size."""
    quality: int = Field(90, ge=1, le=100)
    """Of `jpeg`."""
    train_images: Count | None = None
    """Train on so many images only, drawn evenly over the classes; default all."""
    keep: str | None = None
    """Train on the images of this list only: a `kept.json` that `beamclip balance` wrote. val, test and probes see all images."""
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
    pair_recipe: str | None = None
    """The recipe where an objective compares several views of each image, as `simclr` and `swav` do; default `recipe`."""
    custom: dict[str, Recipe] = {}
    """Recipes of your own by name; `recipe` may then name them."""
    strength: float = Field(1.0, ge=0, le=2)
    """How far views go from the canonical one: 1 as the recipe says, 0 at most mirrored, 2 twice as far. Chances stay."""
    stored: int = Field(4, ge=1, le=1000)
    """Views of each sample that are drawn and embedded; epochs cycle through them."""
    seed: int = Field(0, ge=0)
    """Seed of the views; apart from the run's, so that several seeds share one teacher pass."""
    teacher: Literal["same", "center", "live"] = "same"
    """`same`: the teacher saw the student's view. `center`: it saw the canonical view once, for every recipe. `live`: it runs inside
    training, so that no view ever comes twice; this alone makes a trial pay for its own teacher."""

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
        for name in (self.recipe, self.pair_recipe or self.recipe):
            if name not in known:
                raise ValueError(f"recipe {name} does not exist{nearest(name, known)}")
        return self

    def resolve(self) -> Recipe:
        """The recipe that `recipe` names, at `strength`. Stores depend on this alone: names and numbers that say the same share one."""
        return (RECIPES | self.custom)[self.recipe].scaled(self.strength)

    def views_of(self, epoch: int, count: int = 1, stored: bool = True) -> tuple[int, ...]:
        """The `count` views that the student sees in an epoch.

        Args:
            stored: only those that a teacher saw may be shown, which come again in turns; others are new each time.
        """
        if not self.resolve().random:
            return (0,) * count
        views = range(epoch * count, (epoch + 1) * count)
        return (
            tuple(view % self.stored for view in views)
            if stored and self.teacher == "same"
            else tuple(views)
        )


class AnchorsConfig(Strict):
    """How class names become anchors."""

    prompt_set: str = "openai_7"
    """A built-in prompt set, one of `custom`, or several joined by `+` (the mean of their anchors)."""
    custom: dict[str, PromptSet] = {}
    """Prompt sets of your own by name; `prompt_set` may then name them."""
    vocabulary: str = "data"
    """What the anchors are: the classes of the `data`, `imagenet-1k`, `imagenet-21k`, `lvis`, or a text file like `data.class_names`.
    Zero-shot is always scored on the data's own classes."""
    senses: dict[str, str] = {}
    """Pinned senses, `{crane: n02012849}`: for a class name its WordNet id, or words that say what is meant."""
    strict_senses: bool = False
    """Stop where a class has several senses and none is pinned or known from the data."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Match over the first so many anchors only; default all."""

    @field_validator("custom")
    @classmethod
    def _custom_names_are_new(cls, custom: dict[str, PromptSet]) -> dict[str, PromptSet]:
        for name in sorted(custom):
            if name in built_in_prompt_sets():
                raise ValueError(
                    f"{name} is the name of a built-in prompt set; choose another name"
                )
            if not name.strip() or "+" in name:
                raise ValueError(f"{name!r} can't name a prompt set; use letters, digits and _")
        return custom

    @model_validator(mode="after")
    def _prompt_sets_exist(self) -> "AnchorsConfig":
        for name in (self.prompt_set, *self.custom):
            self.members(name)
        return self

    def members(self, name: str | None = None) -> tuple[PromptSet, ...]:
        """The prompt sets that a name (default `prompt_set`) stands for: one, or those of an ensemble.

        Raises:
            ValueError: there is no such prompt set.
        """
        return members_of(self.prompt_set if name is None else name, self.custom)
