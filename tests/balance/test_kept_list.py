import json

import numpy as np
import pytest

from beamclip.balance import read_kept, write_kept
from beamclip.balance.kept_list import FORMAT, split_facts
from beamclip.config import DataConfig, UserError


def listed(packed, **changes):
    return json.dumps({"format": FORMAT, "images": packed.key, "ids": [5, 3, 3]} | changes)


def test_a_list_reads_back_sorted_and_once_each(packed, tmp_path):
    write_kept(tmp_path / "kept.json", packed.key, np.array([9, 2, 9]), {"threshold": 0.1})
    kept = read_kept(tmp_path / "kept.json", packed)
    assert kept.ids.tolist() == [2, 9] and (kept.split, kept.weighed) == (None, None)
    assert json.loads((tmp_path / "kept.json").read_text())["threshold"] == 0.1


def test_a_list_says_what_part_of_the_images_it_was_made_from(packed, tmp_path):
    write_kept(
        tmp_path / "kept.json",
        packed.key,
        np.array([3]),
        split_facts(DataConfig(split_seed=7, val_fraction=0.3), 112),
    )
    kept = read_kept(tmp_path / "kept.json", packed)
    assert (
        kept.split == {"split_seed": 7, "val_fraction": 0.3, "train_images": None}
        and kept.weighed == 112
    )


@pytest.mark.parametrize(
    "more",
    [
        {"split_seed": 1},
        {"split_seed": 1, "val_fraction": 0.1, "train_images": None},
        {"split_seed": "one", "val_fraction": 0.1, "train_images": None, "weighed": 3},
        {"split_seed": 1, "val_fraction": 3, "train_images": None, "weighed": 3},
        {"split_seed": 1, "val_fraction": 0.1, "train_images": None, "weighed": "all"},
    ],
)
def test_a_list_by_others_that_says_it_otherwise_says_nothing_of_it(packed, tmp_path, more):
    (tmp_path / "kept.json").write_text(listed(packed, **more))
    kept = read_kept(tmp_path / "kept.json", packed)
    assert kept.ids.tolist() == [3, 5] and (kept.split, kept.weighed) == (None, None)


def test_the_name_of_the_store_alone_is_no_key_where_images_were_left_out(
    packed, tmp_path, monkeypatch
):
    (tmp_path / "kept.json").write_text(listed(packed))
    monkeypatch.setattr(packed, "key", f"{packed.key}-1f2e3d4c")
    with pytest.raises(
        UserError,
        match=r"are [0-9a-f]{16}-1f2e3d4c; of these, images that can't be read were left out; number its ids",
    ):
        read_kept(tmp_path / "kept.json", packed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"images": "0123"},
            r"lists images of 0123, but the packed images of this run are [0-9a-f]{16}; use the list with",
        ),
        ({"images": None}, r"lists images of None"),
        ({"ids": []}, r"lists no image, which leaves nothing to train on"),
        ({"ids": "all"}, r"has no list of whole numbers as ids"),
        ({"ids": [1.5]}, r"has no list of whole numbers as ids"),
        ({"ids": [True]}, r"has no list of whole numbers as ids"),
        ({"ids": [3, 160]}, r"lists image 160, but training images are 0 to 159"),
        ({"ids": [-1, 3]}, r"lists image -1, but training images are 0 to 159"),
        ({"ids": [2**70]}, r"lists image 1180591620717411303424, but training images"),
        ({"format": "mine"}, r"is no 'beamclip kept list 1'"),
    ],
)
def test_what_is_wrong_with_a_list_is_a_sentence(packed, tmp_path, changes, said):
    (tmp_path / "kept.json").write_text(listed(packed, **changes))
    with pytest.raises(UserError, match=rf"data.keep .*kept.json {said}"):
        read_kept(tmp_path / "kept.json", packed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x93NUMPY", "is no JSON"),
        (b"", "is no JSON"),
        (b"[1, 2]", "is no 'beamclip kept list 1'"),
        (None, "can't be read"),
    ],
)
def test_what_is_no_list_is_a_sentence(packed, tmp_path, content, said):
    if content is not None:
        (tmp_path / "kept.json").write_bytes(content)
    with pytest.raises(UserError, match=f"{said}.*; give a list that beamclip balance wrote"):
        read_kept(tmp_path / "kept.json", packed)


def test_a_folder_is_no_list(packed, tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        read_kept(tmp_path, packed)
