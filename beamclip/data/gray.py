"""Find which value is white in images with more than 8 bits a pixel.

A 16-bit file often holds fewer bits: 12 from a camera or a scanner, 8 from a careless conversion.
Divided by 65535, such images are nearly black. Only TIFF with 12 bits a pixel gives the number of
bits, so it is found from a sample of the images. All images of a source have the same range. If
each image had its own, a dark image would become a bright one.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, Source
from beamclip.data.files import LazyBytes

_BIT_DEPTHS = (8, 10, 12, 14, 16)
_BITS_PER_SAMPLE = 258
"""Tag of TIFF."""
_PROBES = 4
"""Images of each split that are always opened, to see whether they have more than 8 bits."""
_SAMPLE = 32
"""Images of each split whose values are read if the probes find more than 8 bits."""


@dataclass(frozen=True)
class GrayRange:
    """Which values of images with more than 8 bits a pixel become black and white.

    Attributes:
        low: becomes black.
        high: becomes white.
        given: the user gave the range. Values outside become black or white. If it was found,
            an image with such values is left out, because the range is wrong for it.
    """

    low: float = 0
    high: float = 65535
    given: bool = False


FULL_RANGE = GrayRange()

# By fingerprint. To read the sample may take seconds over a network, and a store's key is computed
# several times.
_found: dict[str, GrayRange] = {}


def gray_range(source: Source, config: DataConfig) -> GrayRange:
    """Return the range of the images of a source that have more than 8 bits a pixel.

    It depends only on the files: the sampled positions are always the same.

    Raises:
        UserError: an image can't be read because of its disk or network.
    """
    if config.gray_range is not None:
        return GrayRange(*config.gray_range, given=True)
    if source.fingerprint not in _found:
        _found[source.fingerprint] = _find_range(source)
    return _found[source.fingerprint]


def describe_gray(source: Source, config: DataConfig) -> str:
    """Return what is unusual about the range, as a clause that follows others, or nothing.

    Raises:
        UserError: as `gray_range`.
    """
    found = gray_range(source, config)
    if found == FULL_RANGE:
        return ""
    if found.given:
        return f", gray of more than 8 bits from {found.low:g} (black) to {found.high:g} (white)"
    bits = int(found.high).bit_length()
    return f", 16-bit gray read as {bits}-bit: {found.high} is white (data.gray_range)"


def is_wide_gray(image: Image.Image) -> bool:
    """Return whether an image is gray with more than 8 bits a pixel."""
    # Pillow opens 16-bit gray as `I` or as one of the `I;16` modes, depending on the format.
    return image.mode.startswith("I") or image.mode == "F"


def to_8_bit(image: Image.Image, allowed: GrayRange) -> Image.Image:
    """Scale gray of more than 8 bits to 8. Pillow's own conversion clips at 255, which is white.

    Raises:
        ValueError: it is not known which values are black and white.
    """
    if image.mode == "F" and not allowed.given:
        raise ValueError(
            "floating-point pixels have no known range; give it with data.gray_range=[LOW, HIGH]"
        )
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    if allowed.given:
        values = values.clip(allowed.low, allowed.high)
    elif values.min() < allowed.low or values.max() > allowed.high:
        raise ValueError(
            f"gray values from {values.min():g} to {values.max():g} are outside {allowed.low:g} to "
            f"{allowed.high:g}, which the other images suggest; give the right range with "
            "data.gray_range=[LOW, HIGH]"
        )
    # The step is 257 for 16 bits.
    step = (allowed.high - allowed.low) / 255
    scaled = np.rint((values - allowed.low) / step).astype(np.uint8)
    return Image.fromarray(scaled)


def _find_range(source: Source) -> GrayRange:
    """Return the range of the smallest usual bit depth that the sampled images fit in."""
    if all(largest is None for largest in _sampled(source, _PROBES)):
        return FULL_RANGE
    largest = max((value for value in _sampled(source, _SAMPLE) if value is not None), default=0)
    # Black images don't show what is white.
    if largest == 0:
        return FULL_RANGE
    for bits in _BIT_DEPTHS:
        if largest < 2**bits:
            return GrayRange(high=2**bits - 1)
    return FULL_RANGE


def _sampled(source: Source, count: int) -> Iterator[int | None]:
    """Yield the largest value of images spread over the source; None for those of 8 bits."""
    for split in SPLITS:
        total = source.count(split)
        positions = np.unique(np.linspace(0, max(0, total - 1), min(count, total)).astype(int))
        for position in positions.tolist():
            for item in source.items(split, position, position + 1):
                yield _largest_value(item.image)


def _largest_value(image: bytes | LazyBytes | NDArray[np.uint8]) -> int | None:
    """Return the largest value that an image with more than 8 bits has or can have.

    Returns:
        None for images with 8 bits, and for those that packing leaves out.
    """
    if isinstance(image, np.ndarray):
        return None
    try:
        encoded = image.read() if isinstance(image, LazyBytes) else image
    except UserError:
        if isinstance(image, LazyBytes) and image.leads_nowhere:
            return None
        raise
    # Decoders raise anything on damaged files.
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(encoded)) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if not is_wide_gray(opened) or opened.mode == "F":
                return None
            if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
                return None
            values = np.asarray(opened)
            declared = _declared_white(opened)
    except Exception:
        return None
    smallest, largest = int(values.min()), int(values.max())
    # Such an image is left out whatever the other images hold.
    if smallest < 0 or largest >= 2 ** max(_BIT_DEPTHS):
        return 0
    return max(largest, declared)


def _declared_white(image: Image.Image) -> int:
    """Return the largest value that a file with less than 16 bits a pixel can have, or 0."""
    if image.format != "TIFF":
        return 0
    tag = image.getexif().get(_BITS_PER_SAMPLE, 16)
    depth = tag if isinstance(tag, int) else tag[0]
    return 2**depth - 1 if depth < 16 else 0
