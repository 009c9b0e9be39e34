import json

import numpy as np
import pytest

from beamclip.balance import read_kept_list, write_kept_list
from beamclip.balance.kept_list import FORMAT, describe_split
from beamclip.config import DataConfig, UserError


def list_text(packed, **changes):
    return json.dumps({"format": FORMAT, "images": packed.key, "ids": [5, 3, 3]} | changes)


def test_ids_are_read_back_sorted_and_distinct(packed, tmp_path):
    write_kept_list(tmp_path / "kept.json", packed.key, np.array([9, 2, 9]), {"threshold": 0.1})
    kept = read_kept_list(tmp_path / "kept.json", packed)
    assert kept.ids.tolist() == [2, 9] and (kept.split, kept.weighed) == (None, None)
    assert json.loads((tmp_path / "kept.json").read_text())["threshold"] == 0.1


def test_a_list_says_which_images_were_balanced(packed, tmp_path):
    write_kept_list(
        tmp_path / "kept.json",
        packed.key,
        np.array([3]),
        describe_split(DataConfig(split_seed=7, val_fraction=0.3), 112),
    )
    kept = read_kept_list(tmp_path / "kept.json", packed)
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
def test_a_list_of_another_program_may_have_no_or_invalid_split_settings(packed, tmp_path, more):
    (tmp_path / "kept.json").write_text(list_text(packed, **more))
    kept = read_kept_list(tmp_path / "kept.json", packed)
    assert kept.ids.tolist() == [3, 5] and (kept.split, kept.weighed) == (None, None)


def test_the_store_s_name_is_not_the_whole_key_if_images_were_left_out(
    packed, tmp_path, monkeypatch
):
    (tmp_path / "kept.json").write_text(list_text(packed))
    monkeypatch.setattr(packed, "key", f"{packed.key}-1f2e3d4c")
    with pytest.raises(
        UserError,
        match=r"are [0-9a-f]{16}-1f2e3d4c; images that can't be read were left out of these; "
        "number the ids",
    ):
        read_kept_list(tmp_path / "kept.json", packed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": "0123"},
            (
                r"lists images of 0123, but the packed images of this run are [0-9a-f]{16}; "
                "use the list with"
            ),
        ),
        ({"images": None}, r"lists images of None"),
        ({"ids": []}, r"lists no images, so there is nothing to train on"),
        ({"ids": "all"}, r"has no list of whole numbers as ids"),
        ({"ids": [1.5]}, r"has no list of whole numbers as ids"),
        ({"ids": [True]}, r"has no list of whole numbers as ids"),
        ({"ids": [3, 160]}, r"lists image 160, but training images are 0 to 159"),
        ({"ids": [-1, 3]}, r"lists image -1, but training images are 0 to 159"),
        ({"ids": [2**70]}, r"lists image 1180591620717411303424, but training images"),
        ({"format": "mine"}, r"is not a 'beamclip kept list 1' file"),
    ],
)
def test_a_bad_list_is_refused(packed, tmp_path, changes, message):
    (tmp_path / "kept.json").write_text(list_text(packed, **changes))
    with pytest.raises(UserError, match=rf"data.keep .*kept.json {message}"):
        read_kept_list(tmp_path / "kept.json", packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY", "is not JSON"),
        (b"", "is not JSON"),
        (b"[1, 2]", "is not a 'beamclip kept list 1' file"),
        (None, "can't be read"),
    ],
)
def test_another_file_is_refused(packed, tmp_path, content, message):
    if content is not None:
        (tmp_path / "kept.json").write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*; give a list that beamclip balance wrote"):
        read_kept_list(tmp_path / "kept.json", packed)


def test_a_folder_is_refused(packed, tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        read_kept_list(tmp_path, packed)
