import csv
import io
import json
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data import Item, open_packed, open_source, pack
from beamclip.data.files import Files, LazyBytes
from beamclip.data.image_shards import RawShardWriter
from beamclip.data.packing import (
    PackJob,
    count_unpacked,
    encode_jpeg,
    encode_row,
    images_per_shard,
    map_in_order,
)
from beamclip.stores import StoreDamaged, in_process, open_store


def test_in_order_keeps_order_and_reads_only_a_little_ahead():
    taken, gate = [], threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        results = map_in_order(pool, lambda n: gate.wait(0.001 * (n % 3)) or n, items(), ahead=8)
        assert next(results) == 0 and len(taken) == 8
        assert list(results) == list(range(1, 100))


@pytest.mark.parametrize(
    ("image", "reason"), [(b"", "empty"), (b"GIF89a", ""), (b"\xff\xd8\xff", "")]
)
def test_the_reason_for_a_bad_image_is_one_line(image, reason):
    said = encode_row(Item("x", image, 0), DataConfig(image_size=8))
    assert isinstance(said, str) and said and "\n" not in said and said.startswith(reason)


def test_a_failed_read_does_not_make_an_image_bad(tmp_path):
    """If a time-out made an image bad, it would be missing from the store forever."""
    with pytest.raises(UserError, match=r"a.jpg can't be read"):
        encode_row(
            Item("a.jpg", LazyBytes(Files(str(tmp_path)), "a.jpg"), 0), DataConfig(image_size=8)
        )


@pytest.mark.parametrize("target", ["gone.jpg", "a.jpg"])
def test_a_broken_link_is_a_bad_image_without_retries(tmp_path, monkeypatch, target):
    monkeypatch.setattr(
        "beamclip.data.retry.time.sleep", lambda _: pytest.fail("it was tried again")
    )
    (tmp_path / "a.jpg").symlink_to(target)
    said = encode_row(
        Item("a.jpg", LazyBytes(Files(str(tmp_path)), "a.jpg"), 0), DataConfig(image_size=8)
    )
    assert said == "a link that leads nowhere"


def test_color_is_not_subsampled_at_high_quality():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    assert len(encode_jpeg(stripes, 95)) > len(encode_jpeg(stripes, 90)) * 1.2


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_two_threads_write_the_shards_that_one_writes(data_config, tmp_path, encoding, monkeypatch):
    config = data_config.model_copy(update={"encoding": encoding})
    job = PackJob.over(open_source(config), config, 10)
    alone = threading.Lock()

    def watched(item, config, gray):
        assert alone.acquire(blocking=False), "two threads decode at once"
        try:
            time.sleep(0.001)
            return encode_row(item, config, gray)
        finally:
            alone.release()

    def written(folder, threads):
        folder.mkdir()
        write = job.open(folder, 1)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(write, range(len(job.spans))))
        return {
            path.name: path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.suffix not in (".stamps", "")
        }

    monkeypatch.setattr("beamclip.data.packing.encode_row", watched)
    assert written(tmp_path / "two", 2) == written(tmp_path / "one", 1)
    assert len(list((tmp_path / "two" / "shards").glob("*.json"))) == len(job.spans)


def test_a_worker_that_outlives_its_builder_damages_no_shard(tmp_path):
    """Both write the first shard; the old worker is killed halfway."""
    pixels = np.full((8, 8, 3), 7, np.uint8)
    with RawShardWriter(tmp_path, 0, 8) as new:
        new.write(pixels)
        old = RawShardWriter(tmp_path, 0, 8).__enter__()
        new.write(pixels)
        old.file.close()
    (written,) = new.files.values()
    assert (
        np.array_equal(np.load(written), np.stack([pixels, pixels]))
        and written not in old.files.values()
    )


@pytest.fixture
def tree(make_tree):
    return make_tree({"train": {"a": 4, "b": 3}, "test": {"a": 2, "b": 1}})


def config_of(tree, **more):
    return DataConfig(path=str(tree), image_size=16, **more)


def pixels(packed):
    return packed.read(np.arange(len(packed)))


def test_rows_are_train_then_test_in_the_sources_order(tree, tmp_path):
    packed = pack(config_of(tree), tmp_path / "stores")
    images = pixels(packed)
    assert images.shape == (10, 16, 16, 3) and images.dtype == np.uint8
    assert packed.labels.tolist() == [0] * 4 + [1] * 3 + [0, 0, 1] and packed.rows == {
        "train": 7,
        "test": 3,
    }
    middle = images[:, 8, 8].astype(int)
    assert (
        np.abs(middle[:, 0] - 40 * packed.labels).max() < 6
    )  # the colors of make_tree: red depends on the class, green on the number
    assert np.abs(middle[:, 1] - 10 * np.array([0, 1, 2, 3, 0, 1, 2, 0, 1, 0])).max() < 6


def test_the_store_depends_on_images_size_and_encoding_but_not_on_splits(tree, tmp_path):
    root = tmp_path / "stores"
    first = pack(config_of(tree), root).key
    assert (
        pack(config_of(tree, val_fraction=0.3, split_seed=5, train_images=2, quality=30), root).key
        == first
    )
    keys = {first, pack(DataConfig(path=str(tree), image_size=8), root).key}
    keys |= {
        pack(config_of(tree, encoding="jpeg", quality=quality), root).key for quality in (90, 30)
    }
    assert len(keys) == 4
    (tree / "train/a/new.jpg").write_bytes((tree / "train/a/000.jpg").read_bytes())
    assert pack(config_of(tree), root).key not in keys


def test_a_packed_store_is_built_once(tree, tmp_path, monkeypatch):
    first = pack(config_of(tree), tmp_path / "stores")
    monkeypatch.setattr(
        sys.modules["beamclip.data.packing"], "_Builder", None
    )  # the package's `pack` is the function
    assert pack(config_of(tree), tmp_path / "stores").key == first.key


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_labels_stay_aligned_when_images_are_broken(tree, tmp_path, encoding):
    whole = pack(config_of(tree, encoding=encoding), tmp_path / "whole")
    (tree / "train/a/001.jpg").write_bytes((tree / "train/a/001.jpg").read_bytes()[:200])
    (tree / "train/b/000.jpg").write_bytes(b"")
    (tree / "test/b/notes.txt").write_text("hello")
    packed = pack(
        config_of(tree, max_unreadable_fraction=0.5, encoding=encoding), tmp_path / "stores"
    )
    kept = [0, 2, 3, 5, 6, 7, 8, 9]
    assert (
        packed.rows == {"train": 5, "test": 3}
        and packed.labels.tolist() == whole.labels[kept].tolist()
    )
    assert np.array_equal(pixels(packed), pixels(whole)[kept])
    assert [name for name, _ in packed.bad] == [
        "train/a/001.jpg",
        "train/b/000.jpg",
        "test/b/notes.txt",
    ]
    assert open_store(packed.store.path).manifest["bad"] == 3
    rows = list(csv.reader(packed.store.file("bad.csv").open()))
    assert rows[0] == ["name", "reason"] and all(reason for _, reason in rows[1:])


def test_the_key_changes_when_omitted_images_become_readable(tree, tmp_path, jpeg, monkeypatch):
    """A repair then gives the images new ids.

    Nothing that was computed for the old ids may be used for the new ones.
    """
    (tree / "train/a/001.jpg").write_bytes(jpeg(size=(90, 90)))
    config = config_of(tree, max_unreadable_fraction=0.5)
    with monkeypatch.context() as smaller:
        smaller.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 90 - 1)
        first, same = (pack(config, tmp_path / name) for name in ("stores", "other"))
    assert [name for name, _ in first.bad] == ["train/a/001.jpg"]
    flip(first.store.file("images-00000.npy"))
    mended = pack(config, tmp_path / "stores", repair=True)
    assert (
        not mended.bad
        and first.key == same.key == f"{mended.store.key}-{first.key[-8:]}"
        and mended.key == mended.store.key
    )


def test_too_many_broken_images_fail_and_more_can_be_allowed_afterwards(tree, tmp_path):
    for name in ("001", "002"):
        (tree / f"train/a/{name}.jpg").write_bytes(b"broken")
    with pytest.raises(
        UserError,
        match=(
            r"^train/a/001.jpg can't be read \(.*\). 2 of 10 images can't be read, more than "
            r"data.max_unreadable_"
        ),
    ):
        pack(config_of(tree, max_unreadable_fraction=0.1), tmp_path / "stores")
    assert not list((tmp_path / "stores/packed").glob("[0-9a-f]*/manifest.json"))
    assert len(pack(config_of(tree, max_unreadable_fraction=0.2), tmp_path / "stores")) == 8


def recording(written, die_after=None):
    """A runner that records which shards it wrote, and may be killed."""

    def run(job, shards, folder):
        for number, index in enumerate(in_process(job, shards, folder)):
            written.append(index)
            if number + 1 == die_after:
                raise KeyboardInterrupt
            yield index

    return run


@pytest.fixture
def many(make_tree):
    """Six shards of train, two of test."""
    return make_tree({"train": {"a": 200, "b": 150}, "test": {"a": 60, "b": 20}})


def test_packing_stops_early_if_too_many_images_are_broken(many, tmp_path):
    for number in range(30):
        (many / f"train/a/{number:03}.jpg").write_bytes(b"broken")
    written = []
    with pytest.raises(UserError, match="30 of 430 images can't be read, more than"):
        pack(config_of(many), tmp_path / "stores", run=recording(written))
    assert written == [0]


def files(packed):
    return {
        str(p.relative_to(packed.store.path)): p.read_bytes()
        for p in packed.store.path.rglob("*")
        if p.is_file() and p.name != "stamps.json"
    }


def test_the_number_of_images_left_to_pack_is_counted(many, tmp_path):
    config = config_of(many, max_unreadable_fraction=0.1)
    (many / "train/a/001.jpg").write_bytes(b"broken")
    source = open_source(config)
    assert count_unpacked(source, config, tmp_path) == 430
    with pytest.raises(KeyboardInterrupt):
        pack(config, tmp_path, run=recording([], die_after=3))
    assert count_unpacked(source, config, tmp_path) == 430 - 3 * 64
    pack(config, tmp_path)
    assert count_unpacked(source, config, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_killed_pack_is_continued_and_the_bytes_are_the_same(many, tmp_path, encoding):
    config, first, second = config_of(many, encoding=encoding), [], []
    whole = pack(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pack(config, tmp_path / "killed", run=recording(first, die_after=3))
    resumed = pack(config, tmp_path / "killed", run=recording(second))
    assert (first, second) == ([0, 1, 2], [3, 4, 5, 6, 7])
    assert files(resumed) == files(whole)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


SHARDS = [
    ("raw", "images-00001.npy"),
    ("jpeg", "images-00001.jpegs"),
    ("jpeg", "offsets-00001.npy"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "says"), [(flip, "has changed since it was written"), (cut, "bytes instead of")]
)
@pytest.mark.parametrize(("encoding", "name"), SHARDS)
def test_a_damaged_shard_is_named_and_repair_packs_only_that_shard(
    many, tmp_path, encoding, name, harm, says
):
    config, written = config_of(many, encoding=encoding), []
    packed = pack(config, tmp_path)
    before = files(packed)
    harm(packed.store.file(name))
    for use in (
        lambda: open_packed(packed.store.path),
        lambda: pack(config, tmp_path, run=recording(written)),
    ):
        with pytest.raises(StoreDamaged, match=f"{name} .*{says}.*; run again with --repair"):
            use()
    assert written == []
    assert files(pack(config, tmp_path, run=recording(written), repair=True)) == before
    assert written == [1]


def test_a_store_of_an_older_format_is_a_user_error_and_packed_again_with_repair(tree, tmp_path):
    config, written = config_of(tree), []
    manifest = pack(config, tmp_path).store.file("manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(
        UserError, match="has store format 1, but 2 is read here; run again with --repair"
    ):
        pack(config, tmp_path)
    pack(config, tmp_path, run=recording(written), repair=True)
    assert written == [0, 1] and len(pack(config, tmp_path)) == 10


@pytest.fixture(params=["tree", "parquet", "tar"])
def folder(request, make_tree, write_parquet, tmp_path, jpeg):
    """Similar images in each of three formats."""
    if request.param == "tree":
        return make_tree({"train": {"a": 100, "b": 30}, "test": {"a": 2, "b": 1}})
    if request.param == "parquet":
        write_parquet("train-0.parquet", [0, 1] * 40)
        return write_parquet("test-0.parquet", [0, 1, 1])
    (tmp_path / "tar").mkdir()
    (tmp_path / "tar" / "classnames.txt").write_text("a\nb\n")
    for split, count in (("train", 80), ("test", 3)):
        with tarfile.open(tmp_path / "tar" / f"{split}-0.tar", "w") as tar:
            for number in range(count):
                for name, content in (
                    (f"{number:03}.jpg", jpeg((3 * number, 0, 128))),
                    (f"{number:03}.cls", str(number % 2).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path / "tar"


def test_a_source_over_fsspec_packs_to_the_same_bytes(folder, tmp_path):
    fsspec.filesystem("memory").put(str(folder), f"/{tmp_path.name}", recursive=True)
    urls = {"here": str(folder), "file": f"file://{folder}", "memory": f"memory://{tmp_path.name}"}
    packed = {
        name: pack(DataConfig(path=url, image_size=16), tmp_path / "stores" / name)
        for name, url in urls.items()
    }
    assert packed["file"].key == packed["here"].key
    ours, theirs = files(packed["here"]), files(packed["memory"])
    assert files(packed["file"]) == ours
    manifest = json.loads(
        theirs.pop("manifest.json")
    )  # has another key, because stamps in memory differ from those of a disk
    assert manifest["files"] == json.loads(ours.pop("manifest.json"))["files"]
    assert theirs == ours and sum(name.startswith("images") for name in ours) >= 3


def test_no_shard_holds_images_of_two_splits(many, tmp_path):
    packed = pack(config_of(many), tmp_path / "stores")
    assert packed.store.manifest["shards"] == [64] * 5 + [30] + [64, 16] and packed.rows == {
        "train": 350,
        "test": 80,
    }
    assert packed.labels[350:].tolist() == [0] * 60 + [1] * 20


def test_a_stricter_limit_holds_for_a_finished_store_too(tree, tmp_path):
    (tree / "train/a/001.jpg").write_bytes(b"broken")
    pack(config_of(tree, max_unreadable_fraction=0.2), tmp_path / "stores")
    with pytest.raises(UserError, match="1 of 10 images"):
        pack(config_of(tree, max_unreadable_fraction=0.0), tmp_path / "stores")


@pytest.mark.slow
def test_groups_are_kept(tmp_path):
    packed = pack(DataConfig(source="demo", image_size=32), tmp_path)
    assert len(packed.groups) == len(packed) and len(set(packed.groups)) == 9
    assert open_packed(packed.store.path).names[3] == "three"


@pytest.mark.parametrize(
    ("total", "side", "images"),
    [
        (100, 32, 64),
        (60_000, 32, 938),
        (1_281_167, 224, 445),
        (10**7, 8, 156_250),
        (5000, 1024, 64),
    ],
)
def test_the_number_and_size_of_shards(total, side, images):
    assert images_per_shard(total, side) == images
    assert images * side * side * 3 <= max(64 * 2**20, 64 * side * side * 3)
