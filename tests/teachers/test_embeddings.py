import dataclasses

import numpy as np
import pytest

from beamclip.config import RECIPES
from beamclip.preparation.embedding_store import embedding_basis, embed
from beamclip.teachers import ViewSet, covering_store, largest_store

IDS = np.arange(3, 160, 2)  # 79 samples in two shards, so that a row is not an id


@pytest.fixture(scope="module")
def stored(teacher, packed, tmp_path_factory):
    return embed(
        teacher, packed, ViewSet(IDS, RECIPES["weak"], 2, 0), tmp_path_factory.mktemp("stores")
    )[0]


def test_rows_are_found_by_id_in_any_order(stored):
    whole = dict(zip(IDS.tolist(), stored.gather(IDS, 1), strict=True))
    some = np.array(
        [159, 3, 131, 3, 129, 133]
    )  # first and last row, both sides of a shard's edge, one of them twice
    got = stored.gather(some, 1)
    assert got.dtype == np.float32 and got.shape == (6, 16)
    assert np.array_equal(got, np.stack([whole[i] for i in some.tolist()]))
    assert not np.allclose(stored.gather(IDS, 0), stored.gather(IDS, 1))


def test_all_is_the_same_as_gathering(stored):
    whole = stored.all()
    assert whole.shape == (79, 2, 16) and whole.dtype == np.float16 and whole.nbytes == stored.bytes
    assert np.array_equal(whole[:, 1].astype(np.float32), stored.gather(IDS, 1))
    assert np.array_equal(stored.rows_of(np.array([7, 3])), [2, 0])


@pytest.mark.parametrize("unknown", [0, 4, 158, 161, -3])
def test_an_unknown_id_is_an_error(stored, unknown):
    with pytest.raises(ValueError, match="not in the embedding store"):
        stored.gather(np.array([3, unknown]), 0)


@pytest.mark.parametrize("view", [-1, 2])
def test_an_unknown_view_is_an_error(stored, view):
    with pytest.raises(ValueError, match=f"view {view} is not in the embedding store, which has 2"):
        stored.gather(IDS, view)


def test_a_store_with_more_samples_and_views_serves_fewer(teacher, packed, tmp_path):
    views = ViewSet(IDS, RECIPES["weak"], 3, 5)
    whole, encoded = embed(teacher, packed, views, tmp_path)
    assert encoded == 3 * 79
    for ids, count in ((IDS[::3], 2), (IDS, 1), (IDS[:1], 3)):
        part, encoded = embed(teacher, packed, ViewSet(ids, RECIPES["weak"], count, 5), tmp_path)
        assert encoded == 0 and part.key == whole.key
        assert np.array_equal(part.gather(ids, count - 1), whole.gather(ids, count - 1))


def test_a_store_of_anything_else_does_not(teacher, packed, tmp_path):
    views = ViewSet(IDS[:10], RECIPES["weak"], 2, 5)
    embed(teacher, packed, views, tmp_path)
    others = [
        {"seed": 6},
        {"recipe": RECIPES["simclr"]},
        {"count": 3},
        {"ids": IDS[:11]},
        {"ids": IDS[5:12]},
    ]
    for other in (dataclasses.replace(views, **change) for change in others):
        assert covering_store(tmp_path, embedding_basis(teacher, packed, other), other) is None
    assert (
        covering_store(tmp_path, embedding_basis(teacher, packed, views) | {"images": "other"}, views)
        is None
    )
    assert covering_store(tmp_path, embedding_basis(teacher, packed, views), views) is not None


def test_a_damaged_store_covers_nothing(teacher, packed, tmp_path):
    views = ViewSet(IDS[:10], RECIPES["weak"], 1, 5)
    store, _ = embed(teacher, packed, dataclasses.replace(views, count=2), tmp_path)
    store.store.file("rows-00000.npy").write_bytes(b"x")
    assert covering_store(tmp_path, embedding_basis(teacher, packed, views), views) is None


def test_some_store_is_the_one_of_the_most_samples_whatever_the_views(teacher, packed, tmp_path):
    assert largest_store(tmp_path, packed.key, teacher.fingerprint) is None
    few, _ = embed(teacher, packed, ViewSet(IDS[:10], RECIPES["weak"], 2, 5), tmp_path)
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == few.key
    many, _ = embed(teacher, packed, ViewSet(IDS[:30], RECIPES["center"], 1, 0), tmp_path)
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == many.key
    assert largest_store(tmp_path, "others", teacher.fingerprint) is None
    assert (
        largest_store(tmp_path, packed.key, teacher.fingerprint | {"precision": "torch.bfloat16"})
        is None
    )


def test_of_damaged_stores_some_store_takes_none(teacher, packed, tmp_path):
    few, many = (
        embed(teacher, packed, ViewSet(IDS[:count], RECIPES["center"], 1, 0), tmp_path)[0]
        for count in (10, 30)
    )
    many.store.file("rows-00000.npy").write_bytes(b"x")
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == few.key
    few.store.file("ids.npy").write_bytes(b"x")
    assert largest_store(tmp_path, packed.key, teacher.fingerprint) is None
