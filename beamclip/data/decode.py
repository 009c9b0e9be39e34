"""Decode an image of any kind to an RGB square.

`PIL.ImageOps.exif_transpose` is not used, because it raises on malformed EXIF. Many readable images
have it; here it is ignored.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.data.files import LazyBytes
from beamclip.data.gray import FULL_RANGE, GrayRange, is_wide_gray, to_8_bit

RESIZE_VERSION = 1
"""Increase it if the pixels of `load_square_rgb` change; it is in the key of packed stores."""

_ORIENTATION = 0x0112
"""EXIF tag of the orientation."""
# What turns an image of each EXIF orientation upright; 1 is upright.
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
    image: bytes | LazyBytes | NDArray[np.uint8],
    side: int,
    upscale: bool = True,
    gray: GrayRange = FULL_RANGE,
) -> NDArray[np.uint8]:
    """Decode an image, turn it upright, convert it to RGB, resize and crop it to a central square.

    The shorter side is resized to `side`, bicubic and antialiased.

    Args:
        image: an encoded file, or pixels, uint8 [H, W, 3].
        side: side of the square, in px.
        upscale: False returns a smaller square of an image whose shorter side is below `side`.
        gray: which values are black and white in gray images with more than 8 bits a pixel.

    Returns:
        uint8 [side, side, 3]; smaller if `upscale` is False and the image is small.

    Raises:
        Exception: any error of Pillow's on a damaged file; ValueError with a reason for images
            that are refused here.
    """
    if isinstance(image, np.ndarray):
        return _central_square(Image.fromarray(image), side, upscale)
    encoded = image.read() if isinstance(image, LazyBytes) else image
    if not encoded:
        raise ValueError("empty")
    with Image.open(io.BytesIO(encoded)) as opened:
        _check_size(opened)
        opened.load()
        # Images that are upright or RGB already are not copied.
        upright = _turn_upright(opened)
        return _central_square(_to_rgb(upright, gray), side, upscale)


def _check_size(image: Image.Image) -> None:
    """Raise ValueError for a decompression bomb, before any pixel is decoded.

    A file of a few kilobytes can claim to have gigapixels. Below twice its limit, Pillow itself
    only warns.
    """
    width, height = image.size
    # The limit is None if a program has switched it off.
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels, more than Pillow's limit of {Image.MAX_IMAGE_PIXELS}"
        )


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says; malformed EXIF is ignored."""
    # Pillow's reader raises anything on malformed bytes: SyntaxError, struct.error, ValueError.
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, gray: GrayRange) -> Image.Image:
    """Return an image in 8-bit RGB, with white behind transparent pixels.

    Raises:
        ValueError: it is not known which values are black and white.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if is_wide_gray(image):
        return to_8_bit(image, gray).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _central_square(image: Image.Image, side: int, upscale: bool) -> NDArray[np.uint8]:
    """Resize and crop as torchvision's Resize and CenterCrop do.

    Only the part that is kept is resized.
    """
    short = min(image.size)
    side = side if upscale else min(side, short)
    # torchvision truncates the resized length and rounds the crop's position.
    width, height = (int(side * length / short) for length in image.size)
    left = round((width - side) / 2)
    top = round((height - side) / 2)
    # The same square in pixels of the original.
    x_scale = image.width / width
    y_scale = image.height / height
    columns = (left * x_scale, (left + side) * x_scale)
    rows = (top * y_scale, (top + side) * y_scale)
    return np.asarray(_resize(image, side, columns, rows))


def _resize(
    image: Image.Image, side: int, columns: tuple[float, float], rows: tuple[float, float]
) -> Image.Image:
    """Resize a part of an image to a square, in two steps: the width first.

    Pillow rounds to 8 bits after each axis, so the order of the axes changes the pixels. Pillow
    below 13 resizes the width first, while Pillow 13 chooses by the image's shape. The order is
    fixed here, because the key of a store does not contain Pillow's version.

    Args:
        image: RGB.
        side: side of the square, in px.
        columns: left and right edge of the part, in px.
        rows: top and bottom edge of the part, in px.
    """
    # For a very long image, resizing the height first saves most of the work.
    if image.height > 100 * image.width and side < image.height:
        flat = _resize_box(image, (image.width, side), (0, image.width), rows)
        return _resize_box(flat, (side, side), columns, (0, side))
    narrow = _resize_box(image, (side, image.height), columns, (0, image.height))
    return _resize_box(narrow, (side, side), (0, side), rows)


def _resize_box(
    image: Image.Image,
    size: tuple[int, int],
    columns: tuple[float, float],
    rows: tuple[float, float],
) -> Image.Image:
    """Resize a part of an image to `size`, width and height in px."""
    box = (columns[0], rows[0], columns[1], rows[1])
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=None)
