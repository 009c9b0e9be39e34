import pickle

import numpy as np
import pytest

from beamclip.config import DataConfig
from beamclip.data import pack


@pytest.fixture
def packed(make_tree, tmp_path):
    tree = make_tree({"train": {"a": 3, "b": 2}, "test": {"a": 1, "b": 1}})
    return pack(DataConfig(path=str(tree), image_size=8), tmp_path / "stores")


def test_reads_by_id_in_the_order_asked(packed):
    pixels = packed.read(np.array([4, 0, 4]))
    assert pixels.shape == (3, 8, 8, 3) and pixels.flags.writeable
    assert np.array_equal(pixels, np.stack([packed.images[i] for i in (4, 0, 4)]))
    assert packed.read(np.empty(0, np.int64)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("ids", [[-1], [0, 7]])
def test_ids_that_are_not_there_are_an_error(packed, ids):
    with pytest.raises(IndexError, match="are not all in 0 to 6"):
        packed.read(np.array(ids))


def test_knows_its_rows(packed):
    assert len(packed) == 7 and packed.image_size == 8 and packed.groups is None and packed.bad == []
    assert packed.train_ids.tolist() == [0, 1, 2, 3, 4] and packed.test_ids.tolist() == [5, 6]


def test_pickling_sends_the_path_and_not_the_pixels(packed):
    sent = pickle.dumps(packed)
    assert len(sent) < 1000 and np.array_equal(pickle.loads(sent).images, packed.images)
