import os
import shutil

import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source


def source_of(tree, **config):
    return open_source(DataConfig(source="folder", path=str(tree), **config))


def test_labels_are_the_sorted_folder_names_and_items_are_in_that_order(make_tree):
    tree = make_tree({"train": {"b": 2, "a": 1}, "val": {"a": 1, "b": 1}})
    (tree / "train" / "b" / "deep").mkdir()
    os.replace(tree / "train/b/001.jpg", tree / "train/b/deep/001.jpg")
    (tree / "train" / "a" / ".DS_Store").touch()
    source = source_of(tree)
    assert source.names == ("a", "b") and source.keys == (None, None)
    items = list(source.items("train"))
    assert [(item.name, item.label) for item in items] == [
        ("train/a/000.jpg", 0),
        ("train/b/000.jpg", 1),
        ("train/b/deep/001.jpg", 1),
    ]
    assert (source.count("train"), source.count("test")) == (3, 2)


def test_test_comes_before_val(make_tree):
    one = {"a": 1, "b": 1}
    source = source_of(make_tree({"train": one, "val": {"a": 3, "b": 3}, "test": one}))
    assert source.count("test") == 2


def test_wordnet_folders_get_names_and_keys(make_tree):
    classes = {"n01440764": 1, "n02102040": 1}
    source = source_of(make_tree({"train": classes, "val": classes}))
    assert source.names[0] == "tench" and source.keys == ("n01440764", "n02102040")


def test_the_fingerprint_changes_with_a_file(make_tree):
    one = {"a": 2, "b": 1}
    tree = make_tree({"train": one, "test": one})
    before = source_of(tree).fingerprint
    assert source_of(tree).fingerprint == before
    (tree / "train/a/000.jpg").write_bytes(b"other")
    assert source_of(tree).fingerprint != before


@pytest.mark.parametrize(
    ("splits", "match"),
    [
        ({"train": {"a": 1, "b": 1}}, "has no test split; put one folder per class into"),
        ({"test": {"a": 1, "b": 1}}, "train does not exist"),
        ({"train": {"a": 0, "b": 0}, "test": {"a": 0, "b": 0}}, "are empty; put images into them"),
        (
            {"train": {"a": 1, "b": 1}, "test": {"a": 1, "c": 1}},
            "class b is in .*train but not in .*test",
        ),
        (
            {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1, "c": 1}},
            "class c is in .*test but not in .*train",
        ),
    ],
)
def test_a_bad_tree_is_a_user_error(make_tree, splits, match):
    with pytest.raises(UserError, match=match):
        source_of(make_tree(splits))


def test_train_without_class_folders_is_a_user_error(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(UserError, match="has no class folders"):
        source_of(tmp_path)


def test_a_name_file_in_another_order_than_the_folders_is_refused(make_tree, tmp_path):
    """Labels follow the folders, so each class would silently get the name of another."""
    one = {"bass": 1, "crane_bird": 1, "mouse": 1}
    tree, names = make_tree({"train": one, "test": one}), tmp_path / "names.txt"
    for listed in ("Crane bird\nbass\nmouse", "the fish\nmouse\ncrane"):
        names.write_text(listed)
        with pytest.raises(
            UserError,
            match=(
                r"in line \d, but its class is number \d; "
                r"write the lines in the order of the classes \(bass"
            ),
        ):
            source_of(tree, class_names=str(names))
    for listed in ("bass\ncrane-bird\nmouse", "the fish\nthe bird\nmouse"):
        names.write_text(listed)
        assert source_of(tree, class_names=str(names)).names == tuple(listed.splitlines())


def test_a_name_file_must_fit_the_folders(make_tree, tmp_path):
    tree = make_tree({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    for text in ("one\n", "one\ntwo\nthree\n"):
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(UserError, match="class names for 2 labels; give one a label"):
            source_of(tree, class_names=str(tmp_path / "names.txt"))


def test_a_linked_class_is_a_class(make_tree):
    tree = make_tree({"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}})
    os.replace(tree / "train/b", tree.parent / "elsewhere")
    (tree / "train/b").symlink_to(tree.parent / "elsewhere")
    source = source_of(tree)
    assert (
        source.names == ("a", "b")
        and [item.name for item in source.items("train")][2] == "train/b/000.jpg"
    )
    before = source.fingerprint
    (tree.parent / "elsewhere/000.jpg").write_bytes(b"other")
    assert source_of(tree).fingerprint != before


def test_a_file_name_that_is_not_utf8_is_a_user_error(make_tree):
    tree = make_tree({"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}})
    os.rename(tree / "train/a/000.jpg", os.fsencode(tree / "train/a") + b"/caf\xe9.jpg")
    with pytest.raises(
        UserError,
        match=r"has the file a/caf\\xe9.jpg, whose name is not UTF-8; rename it",
    ):
        source_of(tree)


def test_accents_may_be_stored_in_different_ways_in_train_and_test(make_tree):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    tree = make_tree({"train": {composed: 2, "dog": 1}, "test": {decomposed: 1, "dog": 2}})
    source = source_of(tree)
    assert source.names == (composed, "dog")
    assert [item.label for item in source.items("test")] == [0, 1, 1]
    # An unlabeled test/ is skipped for a val/ whose accents are stored in another way.
    os.replace(tree / "test", tree / "val")
    (tree / "test" / "images").mkdir(parents=True)
    source = source_of(tree)
    assert [item.label for item in source.items("test")] == [0, 1, 1]
    assert source.notes == ("test/ has no images in class folders, so val/ is the test split",)
    (tree / "train" / decomposed).mkdir()
    with pytest.raises(UserError, match="has the class folder café 2 times"):
        source_of(tree)


def test_an_unlabeled_test_folder_is_skipped_with_a_note(make_tree, jpeg):
    """As ImageNet is distributed: `test/` has images without classes."""
    one = {"a": 1, "b": 1}
    tree = make_tree({"train": one, "val": {"a": 3, "b": 2}})
    for inside in ("", "images/", "c/"):
        shutil.rmtree(tree / "test", ignore_errors=True)
        (tree / "test" / inside).mkdir(parents=True)
        (tree / "test" / f"{inside}0.jpg").write_bytes(jpeg())
        source = source_of(tree)
        assert source.count("test") == 5 and next(source.items("test")).name == "val/a/000.jpg"
        assert source.notes == ("test/ has no images in class folders, so val/ is the test split",)
    shutil.rmtree(tree / "test")
    before = source_of(tree)
    for name in ("", "a", "b"):
        (tree / "test" / name).mkdir(parents=True, exist_ok=True)
    assert source_of(tree).count("test") == 5 and before.notes == ()
    assert source_of(tree).fingerprint == before.fingerprint


def test_flat_val_and_test_folders_are_a_user_error(make_tree):
    tree = make_tree({"train": {"a": 1, "b": 1}, "val": {"images": 2}, "test": {"images": 1}})
    with pytest.raises(
        UserError, match=r"train/ in class folders, but neither test/ nor val/; put"
    ):
        source_of(tree)


def test_valid_is_a_test_split(make_tree):
    one = {"a": 1, "b": 1}
    assert source_of(make_tree({"train": one, "valid": one})).count("test") == 2


def test_classes_with_images_in_only_one_split_are_in_the_notes(make_tree):
    source = source_of(
        make_tree(
            {
                "train": {"a": 2, "b": 0, "c": 1, "d": 0},
                "test": {"a": 1, "b": 2, "c": 0, "d": 0},
            }
        )
    )
    assert source.names == ("a", "b", "c", "d")
    assert source.notes == (
        "class b has images in test but none in train",
        "class c has images in train but none in test",
        "class d has no images",
    )


def test_files_of_the_operating_system_are_not_read_as_images(make_tree):
    tree = make_tree({"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}})
    before = source_of(tree)
    (tree / "train/a/Thumbs.db").write_bytes(b"x")
    (tree / "train/b/@eaDir/000.jpg").mkdir(parents=True)
    (tree / "train/b/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg").write_bytes(b"x")
    (tree / "test/__MACOSX").mkdir()
    (tree / "train/@eaDir").mkdir()
    source = source_of(tree)
    assert source.names == ("a", "b") and source.fingerprint == before.fingerprint
    assert [item.name for item in source.items("train")] == [
        item.name for item in before.items("train")
    ]
    assert source.notes == ("files of the operating system left out: 2 (train/a/Thumbs.db)",)
