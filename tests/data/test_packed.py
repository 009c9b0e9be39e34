import pickle

import numpy as np
import pytest

from beamclip.config import DataConfig
from beamclip.data import pack


@pytest.fixture(params=["raw", "jpeg"])
def packed(request, make_tree, tmp_path):
    tree = make_tree({"train": {"a": 3, "b": 2}, "test": {"a": 1, "b": 1}})
    return pack(
        DataConfig(path=str(tree), image_size=8, encoding=request.param), tmp_path / "stores"
    )


def test_images_are_read_by_id_in_the_requested_order(packed):
    pixels = packed.read(np.array([4, 0, 4]))
    assert pixels.shape == (3, 8, 8, 3) and pixels.flags.writeable and pixels.flags.c_contiguous
    one_by_one = [packed.read(np.array([i]))[0] for i in (4, 0, 4)]
    assert np.array_equal(pixels, np.stack(one_by_one)) and not np.array_equal(pixels[0], pixels[1])
    assert packed.read(np.empty(0, np.int64)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("ids", [[-1], [0, 7]])
def test_unknown_ids_are_an_error(packed, ids):
    with pytest.raises(IndexError, match="are not all in 0 to 6"):
        packed.read(np.array(ids))


def test_rows_and_ids_of_a_packed_store(packed):
    assert (
        len(packed) == 7 and packed.image_size == 8 and packed.groups is None and packed.bad == []
    )
    assert packed.train_ids.tolist() == [0, 1, 2, 3, 4] and packed.test_ids.tolist() == [5, 6]


def test_pickling_sends_the_path_and_not_the_pixels(packed):
    before = packed.read(np.arange(7))
    sent = pickle.dumps(packed)
    assert len(sent) < 1000 and np.array_equal(pickle.loads(sent).read(np.arange(7)), before)


def test_releasing_pages_changes_no_pixel(packed):
    before = packed.read(np.arange(7))
    packed.release()
    assert np.array_equal(packed.read(np.arange(7)), before)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_random_ids_over_many_shards_are_read_correctly(make_tree, tmp_path, encoding):
    """The color depends on class and number, so a row of the wrong shard would be noticed."""
    tree = make_tree({"train": {"a": 100, "b": 90}, "test": {"a": 20, "b": 30}})
    packed = pack(
        DataConfig(path=str(tree), image_size=8, encoding=encoding, quality=95), tmp_path / "stores"
    )
    assert len(packed.store.manifest["shards"]) == 4
    ids = np.random.default_rng(0).permutation(240)[:150]
    number = np.concatenate([np.arange(100), np.arange(90), np.arange(20), np.arange(30)])
    middle = packed.read(ids)[:, 4, 4].astype(int)
    assert np.abs(middle[:, 0] - 40 * packed.labels[ids]).max() < 8
    assert np.abs(middle[:, 1] - np.minimum(10 * number, 255)[ids]).max() < 8


def test_raw_images_are_memory_mapped(packed):
    """So that workers and trials share their pages."""
    packed.read(np.arange(7))
    if packed.encoding == "raw":
        reader = packed._shards[0]
        assert isinstance(reader._rows, np.memmap) and reader._rows.filename == packed.store.file(
            "images-00000.npy"
        )
