"""The pixels of images of every mode after packing."""

import io

import numpy as np
import pytest
from PIL import Image

from beamclip.config import DataConfig
from beamclip.data import open_source, pack
from beamclip.data.packing import measure_image_cost


def pixels(packed):
    return packed.read(np.arange(len(packed)))


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _clear_where_bright(image):
    """The same picture with a palette.

    Its brightest colors are transparent, and become white when it is packed.
    """
    alpha = image.convert("L").point(lambda value: 0 if value > 190 else 255)
    return Image.merge("RGBA", [*image.split(), alpha]).quantize(256)


def odd_images():
    """The same smooth picture in every mode, and broken files with the reason for each."""
    ramp = np.linspace(40, 200, 24 * 32).reshape(24, 32)
    gray, color = (
        Image.fromarray(ramp.astype(np.uint8)),
        Image.fromarray(np.stack([ramp] * 3, -1).astype(np.uint8)),
    )
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    good = {
        "cmyk.jpg": saved(color.convert("CMYK"), "JPEG", quality=98),
        "grey.png": saved(gray, "PNG"),
        "palette.png": saved(color.quantize(256), "PNG"),
        "palette_clear.png": saved(_clear_where_bright(color), "PNG"),
        "deep.png": saved(Image.fromarray((ramp * 257).astype(np.uint16)), "PNG"),
        "exif.jpg": saved(
            color.transpose(Image.Transpose.ROTATE_180), "JPEG", quality=98, exif=turned
        ),
        "rgb.png": saved(color, "PNG"),
    }
    truncated = saved(color.resize((300, 300)), "JPEG")[:1000]
    return good, {
        "bomb.png": b"",
        "empty.jpg": b"",
        "truncated.jpg": truncated,
        "words.jpg": b"not an image at all",
    }


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_every_kind_of_pixels_is_converted_to_rgb_or_listed_as_bad(tmp_path, encoding, monkeypatch):
    good, broken = odd_images()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    broken["bomb.png"] = saved(Image.new("L", (550, 550)), "PNG")
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "tree" / split / kind).mkdir(parents=True)
            for name, content in (good | broken).items():
                (tmp_path / "tree" / split / kind / name).write_bytes(content)
    packed = pack(
        DataConfig(
            path=str(tmp_path / "tree"),
            image_size=24,
            max_unreadable_fraction=0.5,
            encoding=encoding,
            quality=98,
        ),
        tmp_path / "s",
    )
    images = pixels(packed).astype(int)
    assert len(packed) == 4 * len(good)
    plain, clear = (sorted(good).index(name) for name in ("rgb.png", "palette_clear.png"))
    others = np.delete(images[: len(good)], clear, axis=0)
    assert np.abs(others - images[plain]).max() <= 12  # the loss of JPEG and of the palette
    assert (
        np.abs(images[clear, :19] - images[plain, :19]).max() <= 12
        and images[clear, -1].min() >= 240
    )
    assert np.array_equal(
        images.reshape(4, len(good), *images.shape[1:]), np.stack([images[: len(good)]] * 4)
    )
    assert len({name for name, _ in packed.bad}) == 16
    reasons = {name.rsplit("/", 1)[1]: reason for name, reason in packed.bad}
    assert reasons.keys() == broken.keys()
    assert (
        "550 x 550 pixels" in reasons["bomb.png"]
        and reasons["empty.jpg"] == "empty"
        and "truncated" in reasons["truncated.jpg"]
    )
    assert reasons["words.jpg"].startswith("cannot identify image file")


def test_jpeg_is_near_raw_and_smaller(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "tree" / split / kind).mkdir(parents=True)
            for number in range(4):
                small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
                small.resize((120, 100), Image.Resampling.BICUBIC).save(
                    tmp_path / "tree" / split / kind / f"{number}.png"
                )
    configs = [
        DataConfig(path=str(tmp_path / "tree"), image_size=96, encoding=encoding)
        for encoding in ("raw", "jpeg")
    ]
    raw, jpeg = (pack(config, tmp_path / "stores") for config in configs)
    difference = pixels(raw).astype(float) - pixels(jpeg)
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 32  # dB; measured 38
    assert jpeg.store.bytes < raw.store.bytes / 4
    for packed, config in ((raw, configs[0]), (jpeg, configs[1])):
        seconds, size = measure_image_cost(open_source(config), config)
        assert (
            0 < seconds < 1 and abs(16 * size / packed.store.bytes - 1) < 0.2
        )  # the plan's estimate is near what is written


def test_jpeg_stores_small_originals_as_they_are_and_enlarges_them_when_read(tmp_path):
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "tree" / split / kind).mkdir(parents=True)
            Image.new("RGB", (20, 30), (90, 140, 60)).save(
                tmp_path / "tree" / split / kind / "x.png"
            )
    packed = pack(
        DataConfig(path=str(tmp_path / "tree"), image_size=64, encoding="jpeg"), tmp_path / "stores"
    )
    with Image.open(io.BytesIO(packed.store.file("images-00000.jpegs").read_bytes())) as first:
        assert first.size == (20, 20)
    assert np.abs(pixels(packed).astype(int) - [90, 140, 60]).max() < 6 and pixels(
        packed
    ).shape == (4, 64, 64, 3)
