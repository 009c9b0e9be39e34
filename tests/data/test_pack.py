import csv
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import open_packed, pack
from beamclip.data.pack import in_order
from beamclip.stores import open_store


@pytest.fixture
def tree(make_tree):
    return make_tree({"train": {"a": 4, "b": 3}, "test": {"a": 2, "b": 1}})


def config_of(tree, **more):
    return DataConfig(path=str(tree), image_size=16, **more)


def test_rows_are_train_then_test_in_the_sources_order(tree, tmp_path):
    packed = pack(config_of(tree), tmp_path / "stores")
    assert packed.images.shape == (10, 16, 16, 3) and packed.images.dtype == np.uint8
    assert packed.labels.tolist() == [0] * 4 + [1] * 3 + [0, 0, 1] and packed.rows == {"train": 7, "test": 3}
    middle = packed.images[:, 8, 8].astype(int)
    assert np.abs(middle[:, 0] - 40 * packed.labels).max() < 6  # what make_tree painted: red says the class, green the number
    assert np.abs(middle[:, 1] - 10 * np.array([0, 1, 2, 3, 0, 1, 2, 0, 1, 0])).max() < 6


def test_the_store_depends_on_images_and_size_but_not_on_splits(tree, tmp_path):
    root = tmp_path / "stores"
    first = pack(config_of(tree), root).key
    assert pack(config_of(tree, val_fraction=0.3, split_seed=5, train_images=2), root).key == first
    assert pack(DataConfig(path=str(tree), image_size=8), root).key != first
    (tree / "train/a/new.jpg").write_bytes((tree / "train/a/000.jpg").read_bytes())
    assert pack(config_of(tree), root).key != first


def test_is_built_once(tree, tmp_path, monkeypatch):
    first = pack(config_of(tree), tmp_path / "stores")
    monkeypatch.setattr(sys.modules["beamclip.data.pack"], "_build", None)  # the package's `pack` is the function
    assert pack(config_of(tree), tmp_path / "stores").key == first.key


def test_nothing_shifts_when_images_are_broken(tree, tmp_path):
    whole = pack(config_of(tree), tmp_path / "whole")
    (tree / "train/a/001.jpg").write_bytes((tree / "train/a/001.jpg").read_bytes()[:200])
    (tree / "train/b/000.jpg").write_bytes(b"")
    (tree / "test/b/notes.txt").write_text("hello")
    packed = pack(config_of(tree, broken_fraction=0.5), tmp_path / "stores")
    kept = [0, 2, 3, 5, 6, 7, 8, 9]
    assert packed.rows == {"train": 5, "test": 3} and packed.labels.tolist() == whole.labels[kept].tolist()
    assert np.array_equal(packed.images, whole.images[kept])
    assert [name for name, _ in packed.bad] == ["train/a/001.jpg", "train/b/000.jpg", "test/b/notes.txt"]
    assert open_store(packed.store.path).manifest["bad"] == 3
    rows = list(csv.reader(packed.store.file("bad.csv").open()))
    assert rows[0] == ["name", "reason"] and all(reason for _, reason in rows[1:])


def test_too_many_broken_images_fail_and_leave_nothing(tree, tmp_path):
    for name in ("001", "002"):
        (tree / f"train/a/{name}.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"^train/a/001.jpg can't be read \(.*\), and so 2 of 10 images, more than data.broken_"):
        pack(config_of(tree, broken_fraction=0.1), tmp_path / "stores")
    assert not [path for path in (tmp_path / "stores").rglob("*") if path.suffix != ".lock" and path.name != "packed"]


def test_a_stricter_limit_holds_for_a_finished_store_too(tree, tmp_path):
    (tree / "train/a/001.jpg").write_bytes(b"broken")
    pack(config_of(tree, broken_fraction=0.2), tmp_path / "stores")
    with pytest.raises(UserError, match="1 of 10 images"):
        pack(config_of(tree, broken_fraction=0.0), tmp_path / "stores")


def test_a_killed_builders_leftovers_do_no_harm(tree, tmp_path):
    whole = pack(config_of(tree), tmp_path / "whole")
    partial = tmp_path / "stores" / "packed" / f".{whole.key}.partial"
    partial.mkdir(parents=True)
    (partial / "images.npy").write_bytes(b"x" * 100_000)
    assert np.array_equal(pack(config_of(tree), tmp_path / "stores").images, whole.images)


def test_groups_are_kept(tmp_path):
    packed = pack(DataConfig(source="demo", image_size=32), tmp_path)
    assert len(packed.groups) == len(packed) and len(set(packed.groups)) == 9
    assert open_packed(packed.store.path).names[3] == "three"


def test_in_order_keeps_order_and_reads_only_a_little_ahead():
    taken, gate = [], threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, lambda n: gate.wait(0.001 * (n % 3)) or n, items(), ahead=8)
        assert next(results) == 0 and len(taken) == 8
        assert list(results) == list(range(1, 100))
