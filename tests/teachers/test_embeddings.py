"""Reading an embedding store, and the view sets in its key."""

import dataclasses

import numpy as np
import pytest

from beamclip.config import RECIPES
from beamclip.preparation.embedding_store import embed, embedding_basis
from beamclip.teachers import ViewSet, covering_store, largest_store

IDS = np.arange(3, 160, 2)  # 79 samples in two shards, so that a row is not an id


@pytest.fixture(scope="module")
def stored(teacher, packed, tmp_path_factory):
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    return embed(teacher, packed, views, tmp_path_factory.mktemp("stores"))[0]


def test_the_key_depends_on_the_views_and_on_the_seed_only_of_a_random_recipe():
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    changes = [{"ids": IDS[:-1]}, {"recipe": RECIPES["simclr"]}, {"count": 3}, {"seed": 1}]
    for change in changes:
        assert dataclasses.replace(views, **change).key_parts() != views.key_parts()
    center = ViewSet.center(IDS)
    assert dataclasses.replace(center, seed=1).key_parts() == center.key_parts()


def test_ids_of_another_integer_type_are_the_same_ids():
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    other = dataclasses.replace(views, ids=IDS.astype(np.int32))
    assert other.key_parts() == views.key_parts()


def test_a_union_of_views_holds_both():
    first = ViewSet(IDS[:5], RECIPES["weak"], 4, 0)
    second = ViewSet(IDS[3:], RECIPES["weak"], 2, 0)
    both = first.union(second)
    assert np.array_equal(both.ids, IDS) and both.count == 4 and both.images == 4 * len(IDS)


def test_rows_are_found_by_id_in_any_order(stored):
    row_of = dict(zip(IDS.tolist(), stored.gather(IDS, 1), strict=True))
    # The first and last row, both sides of a shard's edge, and one id twice.
    ids = np.array([159, 3, 131, 3, 129, 133])
    gathered = stored.gather(ids, 1)
    assert gathered.dtype == np.float32 and gathered.shape == (6, 16)
    assert np.array_equal(gathered, np.stack([row_of[i] for i in ids.tolist()]))
    assert not np.allclose(stored.gather(IDS, 0), stored.gather(IDS, 1))


def test_reading_all_rows_equals_gathering_them(stored):
    everything = stored.all()
    assert everything.shape == (79, 2, 16) and everything.dtype == np.float16
    assert everything.nbytes == stored.bytes
    assert np.array_equal(everything[:, 1].astype(np.float32), stored.gather(IDS, 1))
    assert np.array_equal(stored.rows_of(np.array([7, 3])), [2, 0])


@pytest.mark.parametrize("unknown", [0, 4, 158, 161, -3])
def test_an_unknown_id_is_an_error(stored, unknown):
    with pytest.raises(ValueError, match="not in the embedding store"):
        stored.gather(np.array([3, unknown]), 0)


@pytest.mark.parametrize("view", [-1, 2])
def test_an_unknown_view_is_an_error(stored, view):
    with pytest.raises(ValueError, match=f"view {view} is not in the embedding store, which has 2"):
        stored.gather(IDS, view)


def test_a_larger_store_can_be_used_for_fewer_samples_and_views(teacher, packed, tmp_path):
    views = ViewSet(IDS, RECIPES["weak"], 3, 5)
    larger, encoded = embed(teacher, packed, views, tmp_path)
    assert encoded == 3 * 79
    for ids, count in ((IDS[::3], 2), (IDS, 1), (IDS[:1], 3)):
        part, encoded = embed(teacher, packed, ViewSet(ids, RECIPES["weak"], count, 5), tmp_path)
        assert encoded == 0 and part.key == larger.key
        assert np.array_equal(part.gather(ids, count - 1), larger.gather(ids, count - 1))


def test_a_store_of_other_views_is_not_used(teacher, packed, tmp_path):
    views = ViewSet(IDS[:10], RECIPES["weak"], 2, 5)
    embed(teacher, packed, views, tmp_path)
    changes = [
        {"seed": 6},
        {"recipe": RECIPES["simclr"]},
        {"count": 3},
        {"ids": IDS[:11]},
        {"ids": IDS[5:12]},
    ]
    for change in changes:
        other = dataclasses.replace(views, **change)
        assert covering_store(tmp_path, embedding_basis(teacher, packed, other), other) is None
    basis = embedding_basis(teacher, packed, views)
    assert covering_store(tmp_path, basis | {"images": "other"}, views) is None
    assert covering_store(tmp_path, basis, views) is not None


def test_a_damaged_store_is_not_used(teacher, packed, tmp_path):
    views = ViewSet(IDS[:10], RECIPES["weak"], 1, 5)
    embeddings, _ = embed(teacher, packed, dataclasses.replace(views, count=2), tmp_path)
    embeddings.store.file("rows-00000.npy").write_bytes(b"x")
    assert covering_store(tmp_path, embedding_basis(teacher, packed, views), views) is None


def test_the_largest_store_is_that_of_the_most_samples_for_any_views(teacher, packed, tmp_path):
    assert largest_store(tmp_path, packed.key, teacher.fingerprint) is None
    few, _ = embed(teacher, packed, ViewSet(IDS[:10], RECIPES["weak"], 2, 5), tmp_path)
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == few.key
    many, _ = embed(teacher, packed, ViewSet(IDS[:30], RECIPES["center"], 1, 0), tmp_path)
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == many.key
    assert largest_store(tmp_path, "others", teacher.fingerprint) is None
    other_teacher = teacher.fingerprint | {"precision": "torch.bfloat16"}
    assert largest_store(tmp_path, packed.key, other_teacher) is None


def test_the_largest_store_is_never_a_damaged_one(teacher, packed, tmp_path):
    few, _ = embed(teacher, packed, ViewSet(IDS[:10], RECIPES["center"], 1, 0), tmp_path)
    many, _ = embed(teacher, packed, ViewSet(IDS[:30], RECIPES["center"], 1, 0), tmp_path)
    many.store.file("rows-00000.npy").write_bytes(b"x")
    assert largest_store(tmp_path, packed.key, teacher.fingerprint).key == few.key
    few.store.file("ids.npy").write_bytes(b"x")
    assert largest_store(tmp_path, packed.key, teacher.fingerprint) is None
