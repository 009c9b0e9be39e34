"""Settings of the images: where they come from, how they are stored, which ones are trained on."""

from typing import Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from beamclip.config.base import Count, Strict


class DataConfig(Strict):
    """Which images are used, and how they are stored."""

    source: Literal["auto", "demo", "folder", "parquet", "tar", "cifar10", "cifar100"] = "auto"
    """Format of the images; `auto` detects it from what `path` contains."""
    path: str | None = None
    """Folder of the images, or an fsspec URL such as `s3://bucket/folder`; `--data` sets it."""
    class_names: str | None = None
    """A text file with one class name per line, in label order; needed if the source names no
    classes. After the name and a tab, a WordNet id or a description may say what is meant. A number
    in front of a name (`0 tench`) is its label, and `n01440764` its WordNet id. stores.md lists the
    other formats."""
    check_class_names: bool = True
    """Measure the teacher's zero-shot accuracy on some val images before the teacher passes. Stop
    if the same names in another order, or the folders' own names, would be much better."""
    download: bool = False
    """Let torchvision download CIFAR into `path`."""
    image_size: int = Field(224, ge=8, le=1024)
    """Side of the stored square in px: the shorter side is resized to it, then the center is
    cropped. `jpeg` keeps smaller images as they are."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How images are stored: `raw` pixels, fastest to read, or `jpeg` files, a tenth of the
    size."""
    quality: int = Field(90, ge=1, le=100)
    """JPEG quality."""
    gray_range: tuple[float, float] | None = None
    """Values that are black and white in gray images with more than 8 bits a pixel; values outside
    become black or white. By default, black is 0, and white is the largest value of 8, 10, 12, 14
    or 16 bits that a sample of the images needs."""
    train_images: Count | None = None
    """Train on this many images only, sampled evenly over the classes; default all."""
    keep: str | None = None
    """Train only on the images in this list: a `kept.json` written by `beamclip balance`. val, test
    and probes use all images."""
    val_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of *train* held out for validation, sampled evenly over the classes: at least one image
    of each class that has two, and never all."""
    split_seed: int = Field(0, ge=0)
    """Seed of the split into train and val."""
    max_unreadable_fraction: float = Field(0.01, ge=0, lt=1, serialization_alias="broken_fraction")
    """Packing fails if a larger share of the images can't be read."""

    @model_validator(mode="after")
    def _check_gray_range(self) -> "DataConfig":
        if self.gray_range is not None and not self.gray_range[0] < self.gray_range[1]:
            raise ValueError(
                "gray_range gives the black value first and then a larger one for white, such as "
                "[0, 4095]"
            )
        return self

    @model_serializer(mode="wrap")
    def _keep_key_parts(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave settings out of a dump by alias that older keys don't have.

        `check_class_names` changes no store, and `gray_range` changes none if it is None.
        """
        parts: dict[str, Any] = handler(self)
        if info.by_alias:
            parts.pop("check_class_names", None)
            if self.gray_range is None:
                parts.pop("gray_range", None)
        return parts


class BalanceConfig(Strict):
    """Image semantic balance (CLIP-CID): train on one image of each set of similar images.

    Images are similar if the teacher's embeddings of them are close.
    """

    threshold: float | None = Field(None, gt=0, le=2)
    """Join images whose cosine distance is below this; off by default. The CLIP-CID authors used
    0.1 in later work, with another encoder."""
    remove: float | None = Field(None, ge=0, lt=1)
    """The share of images to leave out, in place of `threshold`, which is then computed. 0 leaves
    out none. CLIP-CID's value is 0.437."""
    search: Literal["auto", "exact", "index"] = "auto"
    """How neighbors are found: `exact` compares all pairs, `index` uses faiss; `auto` is exact up
    to 100,000 images."""
    neighbors: int = Field(32, ge=1, le=1024, serialization_alias="neighbours")
    """Neighbors the index looks up for each image."""

    @model_validator(mode="after")
    def _check_one_criterion(self) -> "BalanceConfig":
        if self.threshold is not None and self.remove is not None:
            raise ValueError(
                "threshold and remove are both given, but one follows from the other; "
                "give one of them"
            )
        return self

    @property
    def active(self) -> bool:
        """True if any image may be left out."""
        return self.threshold is not None or bool(self.remove)
