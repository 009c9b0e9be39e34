import json

import numpy as np
import pytest
from PIL import Image

from beamclip.balance import balance, kept_ids, read_balance_report, read_kept_list
from beamclip.balance import store as store_module
from beamclip.balance.neighbors import normalize_rows
from beamclip.config import BalanceConfig
from beamclip.stores import key_of


@pytest.fixture
def balanced(balanced_inputs, packed, tmp_path):
    """Function: settings -> the store made with them."""

    def make(**settings):
        basis, embeddings, ids = balanced_inputs
        return balance(basis, embeddings, packed, ids, BalanceConfig(**settings), tmp_path)

    return make


def test_one_image_of_each_set_is_kept_and_all_files_agree(balanced, balanced_inputs, packed):
    store = balanced(remove=0.4)
    kept, ids, sets = (
        kept_ids(store),
        np.load(store.file("ids.npy")),
        np.load(store.file("sets.npy")),
    )
    assert ids.tolist() == list(range(160)) and (np.diff(kept) > 0).all()
    assert sorted(sets[kept].tolist()) == list(range(sets.max() + 1))
    report = read_balance_report(store)
    assert report["kept"] == len(kept) == report["sets"] == 96 and report[
        "removed_share"
    ] == pytest.approx(0.4)
    assert report["largest"]["size"] == np.bincount(sets).max() == report["sizes"][0]
    vectors = normalize_rows(balanced_inputs[1].gather(ids, 0))
    a, b = report["largest"]["farthest"]
    assert sets[a] == sets[b] and report["largest"]["distance"] == pytest.approx(
        1 - vectors[a] @ vectors[b], abs=1e-6
    )
    assert read_kept_list(store.file("kept.json"), packed).ids.tolist() == kept.tolist()
    assert (
        json.loads(store.file("kept.json").read_text())["removed_share"] == report["removed_share"]
    )
    with Image.open(store.file("merged.png")) as sheet:
        assert sheet.width > 500


def test_classes_are_counted(balanced, packed):
    store = balanced(remove=0.4)
    kept, classes = kept_ids(store), read_balance_report(store)["classes"]
    assert [entry["name"] for entry in classes] == list(packed.names)
    for label, entry in enumerate(classes):
        left = int((packed.labels[kept] == label).sum())
        assert (entry["images"], entry["removed"], entry["share"]) == (
            40,
            40 - left,
            pytest.approx(1 - left / 40),
        )


def test_a_threshold_found_for_a_share_gives_the_same_set_when_given(balanced):
    by_share = balanced(remove=0.4)
    by_threshold = balanced(threshold=read_balance_report(by_share)["threshold"])
    assert (
        by_share.key != by_threshold.key
        and kept_ids(by_share).tolist() == kept_ids(by_threshold).tolist()
    )


def test_one_forest_serves_every_share_and_nothing_is_built_twice(balanced, tmp_path, monkeypatch):
    stores = [balanced(remove=share) for share in (0.2, 0.437, 0.6)]
    assert len(list((tmp_path / "forests").glob("*/manifest.json"))) == 1
    assert [read_balance_report(store)["kept"] for store in stores] == [128, 90, 64]
    monkeypatch.setattr(
        "beamclip.stores.build._build", lambda *arguments: pytest.fail("a store was built")
    )
    assert balanced(remove=0.6).path == stores[2].path


def test_an_index_gives_what_comparing_every_pair_gives_on_small_data(balanced):
    exact, index = (
        balanced(remove=0.4, search="exact"),
        balanced(remove=0.4, search="index", neighbors=100),
    )
    assert exact.key != index.key and kept_ids(exact).tolist() == kept_ids(index).tolist()
    assert (
        read_balance_report(exact)["search"]["method"] == "exact"
        and read_balance_report(index)["search"]["recall"] == 1
    )


def test_auto_uses_an_index_for_many_images(balanced_inputs, monkeypatch):
    basis = balanced_inputs[0]
    parts = {
        search: store_module.forest_parts(basis, BalanceConfig(remove=0.2, search=search))
        for search in ("auto", "exact", "index")
    }
    assert key_of(parts["auto"]) == key_of(parts["exact"]) != key_of(parts["index"])
    monkeypatch.setattr(store_module, "MAX_EXACT_IMAGES", 100)
    assert store_module.forest_parts(basis, BalanceConfig(remove=0.2))["search"] == "index"


def test_a_damaged_store_is_repaired(balanced, balanced_inputs, packed, tmp_path):
    store = balanced(remove=0.4)
    before = store.file("kept.npy").read_bytes()
    store.file("kept.npy").write_bytes(before[:-8])
    basis, embeddings, ids = balanced_inputs
    again = balance(
        basis, embeddings, packed, ids, BalanceConfig(remove=0.4), tmp_path, repair=True
    )
    assert again.file("kept.npy").read_bytes() == before


def test_reports_are_plain_json(balanced):
    store = balanced(threshold=0.0001)
    assert json.loads(store.file("report.json").read_text())["asked"] == {
        "threshold": 0.0001,
        "remove": None,
    }
