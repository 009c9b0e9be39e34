import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import Item, open_source
from beamclip.data.files import Files, LazyBytes
from beamclip.data.image_shards import RawShardWriter
from beamclip.data.packing import PackJob, encode_jpeg, encode_row, map_in_order


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
def test_what_is_no_image_gives_its_reason_in_a_line(image, reason):
    said = encode_row(Item("x", image, 0), DataConfig(image_size=8))
    assert isinstance(said, str) and said and "\n" not in said and said.startswith(reason)


def test_an_image_that_could_not_be_read_is_not_a_bad_one(tmp_path):
    """A time-out would leave it out for good."""
    with pytest.raises(UserError, match=r"a.jpg can't be read"):
        encode_row(
            Item("a.jpg", LazyBytes(Files(str(tmp_path)), "a.jpg"), 0), DataConfig(image_size=8)
        )


@pytest.mark.parametrize("target", ["gone.jpg", "a.jpg"])
def test_a_link_that_leads_nowhere_is_a_bad_image_at_once(tmp_path, monkeypatch, target):
    monkeypatch.setattr(
        "beamclip.data.retry.time.sleep", lambda _: pytest.fail("it was tried again")
    )
    (tmp_path / "a.jpg").symlink_to(target)
    said = encode_row(
        Item("a.jpg", LazyBytes(Files(str(tmp_path)), "a.jpg"), 0), DataConfig(image_size=8)
    )
    assert said == "a link that leads nowhere"


def test_colour_is_kept_whole_at_high_quality():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    assert len(encode_jpeg(stripes, 95)) > len(encode_jpeg(stripes, 90)) * 1.2


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_two_threads_write_the_shards_that_one_writes(data_config, tmp_path, encoding, monkeypatch):
    config = data_config.model_copy(update={"encoding": encoding})
    job = PackJob.over(open_source(config), config, 10)
    alone = threading.Lock()

    def watched(item, config):
        assert alone.acquire(blocking=False), "two threads decode at once"
        try:
            time.sleep(0.001)
            return encode_row(item, config)
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


def test_a_worker_that_outlived_its_builder_spoils_no_shard(tmp_path):
    """Both write the first shard; the old one is killed half-way."""
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
