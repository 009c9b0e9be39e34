import hashlib
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from beamclip.data.decode import load_square_rgb
from beamclip.data.files import Files, LazyBytes


def encode(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photograph(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(
        256, size=(height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8
    )
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "size", [(64, 48), (48, 65), (301, 200), (33, 32), (32, 32), (20, 31), (500, 61)]
)
def test_equals_torchvisions_resize_and_center_crop(size):
    image = photograph(*size)
    steps = v2.Compose(
        [v2.Resize(32, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)]
    )
    difference = load_square_rgb(encode(image), 32).astype(int) - np.asarray(steps(image)).astype(
        int
    )
    assert np.abs(difference).max() <= 2


def test_pixels_are_the_same_for_every_version_of_pillow():
    """Pillow 10.3 and 12.3 give this digest. A store's key does not contain Pillow's version.

    If the digest changes, increase RESIZE_VERSION.
    """
    total = hashlib.sha256()
    for width, height in [(50, 37), (37, 50), (33, 50), (10, 15), (60, 12), (4, 420), (420, 4)]:
        pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
        total.update(load_square_rgb(pixels, 22).tobytes())
    assert total.hexdigest().startswith("9611b5ec08fc2153")


def test_pixels_of_the_right_size_are_not_touched():
    pixels = np.asarray(photograph(32, 32))
    assert np.array_equal(load_square_rgb(pixels, 32), pixels)


def test_a_very_long_image_needs_little_memory():
    assert load_square_rgb(np.zeros((1, 60_000, 3), np.uint8), 224).shape == (224, 224, 3)


def test_a_file_is_read_only_when_it_is_decoded(tmp_path):
    image = LazyBytes(Files(str(tmp_path)), "x.png")
    photograph(40, 40).save(tmp_path / "x.png")
    assert load_square_rgb(image, 16).shape == (16, 16, 3)


def test_small_images_are_not_enlarged_if_so_requested():
    small, large = np.full((20, 30, 3), 90, np.uint8), np.full((50, 60, 3), 90, np.uint8)
    assert load_square_rgb(small, 32, upscale=False).shape == (20, 20, 3) and load_square_rgb(
        small, 32
    ).shape == (
        32,
        32,
        3,
    )
    assert load_square_rgb(large, 32, upscale=False).shape == (32, 32, 3)


def test_exif_orientation_is_applied():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white at the top; stored rotated by 90 degrees, with the EXIF tag for that
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(
        Image.fromarray(np.rot90(pixels).copy()), "JPEG", exif=exif, quality=100, subsampling=0
    )
    assert np.abs(load_square_rgb(turned, 16).astype(int) - pixels).max() < 20


@pytest.mark.parametrize("turn", range(1, 10))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_turned_as_pillow_turns_it(turn, format):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encode(photograph(16, 16), format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(load_square_rgb(data, 16), np.asarray(expected))


def with_exif(payload):
    data = encode(photograph(16, 16), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


@pytest.mark.parametrize(
    "exif", [b"garbagegarbage", b"", b"II*\0", b"II*\0\xff\xff\0\0", b"II*\0\x08\0\0\0\x05\0abc"]
)
def test_malformed_exif_is_ignored(exif):
    plain = load_square_rgb(encode(photograph(16, 16), "JPEG"), 16)
    assert np.array_equal(load_square_rgb(with_exif(b"Exif\0\0" + exif), 16), plain)
    for format in ("PNG", "WEBP"):
        assert load_square_rgb(
            encode(photograph(16, 16), format, exif=b"Exif\0\0" + exif or b"x"), 16
        ).shape == (16, 16, 3)


WHITE, GRAY = (255, 255, 255), (100, 100, 100)
CLEAR_RED = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
HALF_BLACK = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
PALETTE = Image.new("P", (8, 8), 1)
PALETTE.putpalette([0, 0, 0, 10, 200, 30])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(Image.new("L", (8, 8), 100)), GRAY),
        (encode(Image.new("1", (8, 8), 1)), WHITE),
        (encode(PALETTE), (10, 200, 30)),
        (encode(PALETTE, transparency=1), WHITE),
        (encode(PALETTE, "GIF"), (10, 200, 30)),
        (encode(CLEAR_RED), WHITE),
        (encode(HALF_BLACK), (127, 127, 127)),
        (encode(Image.new("LA", (8, 8), (100, 255))), GRAY),
        (encode(Image.fromarray(np.full((8, 8), 100 * 257, np.uint16))), GRAY),
        (encode(Image.fromarray(np.full((8, 8), 100 * 257, np.int32)), "TIFF"), GRAY),
        (encode(Image.new("CMYK", (8, 8), (0, 0, 0, 155)), "JPEG", quality=100), GRAY),
        (encode(Image.new("RGB", (8, 8), GRAY), "WEBP", lossless=True), GRAY),
        (encode(Image.new("RGB", (8, 8), GRAY), "BMP"), GRAY),
    ],
)
def test_every_image_mode_becomes_rgb(data, expected):
    pixels = load_square_rgb(data, 8)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", encode(photograph(64, 64), "JPEG")[:900], encode(photograph(9, 9))[:60]],
)
def test_broken_files_are_refused(data):
    with pytest.raises(Exception, match="."):
        load_square_rgb(data, 8)


def test_a_decompression_bomb_is_refused_before_decoding():
    header = encode(Image.new("1", (12_000, 9_000)))
    with pytest.raises(ValueError, match="12000 x 9000 pixels, more than Pillow's limit"):
        load_square_rgb(header, 8)


def test_pixels_without_a_known_range_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        load_square_rgb(encode(Image.new("F", (8, 8)), "TIFF"), 8)


def test_torch_can_take_the_result():
    assert torch.from_numpy(load_square_rgb(encode(photograph(20, 20)), 8).copy()).shape == (
        8,
        8,
        3,
    )
