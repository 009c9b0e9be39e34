"""From an encoded image of any kind to an RGB square."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.data.files import LazyBytes

RESIZE_VERSION = 1
"""Goes up whenever the pixels that `load_square_rgb` returns change, so that no old store is taken for a new one."""

_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_square_rgb(
    image: bytes | LazyBytes | NDArray[np.uint8], side: int, upscale: bool = True
) -> NDArray[np.uint8]:
    """Decode, turn upright, bring to RGB, resize the shorter side to `side` (bicubic, antialiased), keep the middle.

    Args:
        upscale: False keeps an image whose shorter side is less than `side` at that.

    Returns:
        uint8 [side, side, 3], or smaller.

    Raises:
        Exception: whatever Pillow raises on a damaged file; ValueError with a reason where we refuse it ourselves.
    """
    if isinstance(image, np.ndarray):
        return _middle(Image.fromarray(image), side, upscale)
    encoded = image.read() if isinstance(image, LazyBytes) else image
    if not encoded:
        raise ValueError("empty")
    with Image.open(io.BytesIO(encoded)) as opened:
        _refuse_bomb(opened)
        opened.load()
        return _middle(
            _rgb(_upright(opened)), side, upscale
        )  # neither turning nor converting copies pixels that are as they should be


def _refuse_bomb(image: Image.Image) -> None:
    """Before any pixel is decoded: a few kilobytes can claim gigapixels. Pillow only warns up to twice its limit."""
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels, more than Pillow's limit of {Image.MAX_IMAGE_PIXELS}"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. Many readable images have malformed EXIF, which says nothing then."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (
        Exception
    ):  # its reader raises anything on malformed bytes: SyntaxError, struct.error, ValueError…
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. What is transparent becomes white, as on a page."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips at 255 and makes nearly every 16-bit image white."""
    values = np.asarray(image).astype(np.float64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels outside 16 bits have no known range")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")


def _middle(image: Image.Image, side: int, upscale: bool) -> NDArray[np.uint8]:
    """The same pixels as torchvision's Resize and CenterCrop, without making the ends of a long strip first."""
    short = min(image.size)
    side = side if upscale else min(side, short)
    scaled = [int(side * length / short) for length in image.size]
    left, top = (round((length - side) / 2) for length in scaled)
    across, down = (length / after for length, after in zip(image.size, scaled, strict=True))
    return np.asarray(
        _resized(
            image, side, (left * across, (left + side) * across), (top * down, (top + side) * down)
        )
    )


def _resized(
    image: Image.Image, side: int, columns: tuple[float, float], rows: tuple[float, float]
) -> Image.Image:
    """A part of an image as a square, in two steps: width first, but in strips over 100 times as tall as wide, which it saves most of.

    Each order rounds in its own way. Pillow below 13 takes this one where it is left the choice, Pillow 13 another by shape: pixels
    must not depend on its version, which is in no key.
    """
    if image.height > 100 * image.width and side < image.height:
        return _step(
            _step(image, (image.width, side), (0, image.width), rows),
            (side, side),
            columns,
            (0, side),
        )
    return _step(
        _step(image, (side, image.height), columns, (0, image.height)),
        (side, side),
        (0, side),
        rows,
    )


def _step(
    image: Image.Image,
    size: tuple[int, int],
    columns: tuple[float, float],
    rows: tuple[float, float],
) -> Image.Image:
    box = (columns[0], rows[0], columns[1], rows[1])
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=None)
