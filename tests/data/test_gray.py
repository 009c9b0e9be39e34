import csv
import io

import numpy as np
import pytest
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source, pack
from beamclip.data.decode import load_square_rgb
from beamclip.data.gray import FULL_RANGE, GrayRange, describe_gray, gray_range
from beamclip.data.packing import store_parts


def ramp(top, dtype=np.uint16, side=16):
    """Values from 0 to `top`, all gray levels of 8 bits among them."""
    return (np.arange(side * side).reshape(side, side) * top / (side * side - 1)).astype(dtype)


def tree(root, *, cat, dog, ext="png", images=6):
    """Write train/ and test/ with one kind of pixels for each class."""
    for split in ("train", "test"):
        for name, pixels in (("cat", cat), ("dog", dog)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                Image.fromarray(pixels).save(folder / f"{number}.{ext}")
    return root


def config_of(root, **settings):
    return DataConfig(path=str(root), image_size=16, max_unreadable_fraction=0.6, **settings)


def pixels(packed):
    return packed.read(np.arange(len(packed)))


EIGHT_BITS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("top", "white"),
    [(255, 255), (1000, 1023), (4095, 4095), (4000, 4095), (16000, 16383), (65535, 65535)],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_white_is_the_smallest_depth_that_holds_the_images(tmp_path, top, white, dtype):
    root = tree(tmp_path / "d", cat=ramp(top, dtype), dog=ramp(top, dtype), ext="tif")
    config = config_of(root)
    assert gray_range(open_source(config), config) == GrayRange(0, white)
    packed = pack(config, tmp_path / "s")
    expected = np.rint(ramp(top, dtype) / white * 255)
    assert np.array_equal(pixels(packed)[0, :, :, 0], expected)
    assert packed.flat == []


def test_one_dark_image_among_bright_ones_stays_dark(tmp_path):
    root = tree(tmp_path / "d", cat=ramp(65535), dog=ramp(4095))
    packed = pack(config_of(root), tmp_path / "s")
    assert pixels(packed)[0].max() == 255 and pixels(packed)[6].max() == 16


def test_the_depth_of_a_12_bit_tiff_is_read_from_its_tag():
    """Two pixels share three bytes. The largest value alone, 100, would mean 8 bits."""
    values = np.arange(64) % 101
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    file = twelve_bit_tiff(bytes(packed), 8)
    with Image.open(io.BytesIO(file)) as opened:
        assert np.array_equal(np.asarray(opened).ravel(), values)

    class Source:
        fingerprint = "twelve"

        def count(self, split):
            return 1

        def items(self, split, start=0, stop=None):
            from beamclip.data import Item

            yield Item("x.tif", file, 0)

    assert gray_range(Source(), DataConfig()) == GrayRange(0, 4095)


def twelve_bit_tiff(strip, side):
    tags = [
        (256, side),
        (257, side),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, side),
        (279, len(strip)),
    ]
    body = len(tags).to_bytes(2, "little")
    for tag, value in tags:
        kind = 4 if tag in (273, 279) else 3
        body += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        body += value.to_bytes(4, "little")
    strip += b"\0" * (len(strip) % 2)
    return b"II*\0" + (8 + len(strip)).to_bytes(4, "little") + strip + body + b"\0" * 4


def test_only_images_with_another_range_have_another_key(tmp_path):
    """The key parts are those of every version so far."""
    known = {"source", "image_size", "encoding", "quality", "resize", "classes"}
    for name, kind in (("colour", EIGHT_BITS), ("sixteen", ramp(65535))):
        config = config_of(tree(tmp_path / name, cat=kind, dog=kind))
        assert store_parts(open_source(config), config).keys() == known
    for name, top in (("twelve", 4095), ("eight", 255)):
        config = config_of(tree(tmp_path / name, cat=ramp(top), dog=ramp(top)))
        parts = store_parts(open_source(config), config)
        assert parts["gray"] == [0, top, "refused outside"] and parts.keys() == known | {"gray"}


def test_a_given_range_clips_values_and_changes_the_key(tmp_path):
    scan = ramp(4000, np.int32) - 1000
    root = tree(tmp_path / "d", cat=scan, dog=scan, ext="tif")
    config = config_of(root, gray_range=(-160, 240))
    packed = pack(config, tmp_path / "s")
    expected = np.rint((scan.clip(-160, 240) + 160) / 400 * 255)
    assert np.array_equal(pixels(packed)[0, :, :, 0], expected)
    parts = [
        store_parts(open_source(config), config_of(root, gray_range=given))
        for given in (None, (0, 4095), (-160, 240))
    ]
    assert len({str(part) for part in parts}) == 3
    assert (
        describe_gray(open_source(config), config)
        == ", gray of more than 8 bits from -160 (black) to 240 (white)"
    )


def test_floating_point_pixels_need_a_range(tmp_path):
    pixels_of_1 = ramp(1, np.float32)
    root = tree(tmp_path / "d", cat=pixels_of_1, dog=pixels_of_1, ext="tif")
    with pytest.raises(UserError, match=r"floating-point .*data\.gray_range=\[LOW, HIGH\]"):
        pack(config_of(root), tmp_path / "s")
    packed = pack(config_of(root, gray_range=(0, 1)), tmp_path / "s")
    assert np.array_equal(pixels(packed)[0, :, :, 0], np.rint(pixels_of_1 * 255.0))


def test_an_image_brighter_than_the_sample_is_left_out_with_the_reason(tmp_path):
    """One image in 200 is not in the sample. Cut off at white, it would be wrong silently."""
    root = tree(tmp_path / "d", cat=ramp(4095), dog=ramp(4095), images=100)
    Image.fromarray(ramp(60000)).save(root / "train" / "cat" / "51.png")
    config = config_of(root)
    assert gray_range(open_source(config), config).high == 4095
    ((name, reason),) = pack(config, tmp_path / "s").bad
    assert name == "train/cat/51.png"
    assert reason == (
        "gray values from 0 to 60000 are outside 0 to 4095, which the other images suggest; give "
        "the right range with data.gray_range=[LOW, HIGH]"
    )


@pytest.mark.parametrize("lowest", [-5, 0])
def test_values_of_more_than_16_bits_need_a_range(tmp_path, lowest):
    image = io.BytesIO()
    Image.fromarray(ramp(200_000, np.int32) + lowest).save(image, "TIFF")
    with pytest.raises(ValueError, match=rf"from {lowest} to .*data\.gray_range="):
        load_square_rgb(image.getvalue(), 8)


def test_a_range_that_was_found_is_described(tmp_path):
    config = config_of(tree(tmp_path / "d", cat=ramp(4095), dog=ramp(4095)))
    assert describe_gray(open_source(config), config) == (
        ", 16-bit gray read as 12-bit: 4095 is white (data.gray_range)"
    )
    config = config_of(tree(tmp_path / "e", cat=EIGHT_BITS, dog=EIGHT_BITS))
    assert describe_gray(open_source(config), config) == ""


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_images_that_are_nearly_one_color_are_counted_and_listed(tmp_path, encoding):
    """Such as 12 bits in a 16-bit color file, of which Pillow keeps the upper eight bits."""
    dark = (EIGHT_BITS // 17).astype(np.uint8)
    root = tree(tmp_path / "d", cat=dark, dog=EIGHT_BITS)
    packed = pack(config_of(root, encoding=encoding), tmp_path / "s")
    names = [f"{split}/cat/{number}.png" for split in ("train", "test") for number in range(6)]
    assert packed.flat == names and packed.store.manifest["flat"] == 12 and not packed.bad
    with packed.store.file("flat.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name"], *([name] for name in names)]


def test_black_images_leave_the_full_range(tmp_path):
    black = np.zeros((16, 16), np.uint16)
    config = config_of(tree(tmp_path / "d", cat=black, dog=black))
    assert gray_range(open_source(config), config) == FULL_RANGE


def test_damaged_images_in_the_sample_are_ignored(tmp_path):
    root = tree(tmp_path / "d", cat=ramp(4095), dog=ramp(4095))
    for number in (0, 2):
        (root / "train" / "cat" / f"{number}.png").write_bytes(b"words")
    (root / "train" / "cat" / "1.png").unlink()
    (root / "train" / "cat" / "1.png").symlink_to("nowhere.png")
    config = config_of(root)
    assert gray_range(open_source(config), config).high == 4095


@pytest.mark.parametrize("wrong", [(5, 5), (4095, 0)])
def test_a_range_whose_white_is_not_above_black_is_refused(wrong):
    with pytest.raises(ValueError, match="black value first"):
        DataConfig(gray_range=wrong)
