import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import split, val_note


def data_of(counts, groups=None, test=5):
    """A stand-in for a packed store with this many training images per class, shuffled."""
    train = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    labels = np.concatenate([train, np.zeros(test, np.int64)])
    ids = np.arange(len(labels))
    names = [f"class {n}" for n in range(len(counts))]
    groups = None if groups is None else np.concatenate([groups(train), np.full(test, 99)])
    rows = {"train": len(train), "test": test}
    return SimpleNamespace(
        labels=labels,
        groups=groups,
        names=names,
        rows=rows,
        train_ids=ids[: len(train)],
        test_ids=ids[len(train) :],
    )


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.1, [10, 3, 1]), (0.5, [50, 13, 3]), (0.3, [30, 8, 2])]
)
def test_val_takes_its_share_of_each_class(fraction, expected):
    data = data_of([100, 25, 5])
    splits = split(data, DataConfig(val_fraction=fraction))
    assert np.bincount(data.labels[splits.val]).tolist() == expected
    together = np.concatenate([splits.train, splits.val, splits.test])
    assert sorted(together) == list(range(135))
    assert all(
        (np.diff(part) > 0).all() and part.dtype == np.int64
        for part in (splits.train, splits.val, splits.test)
    )


def test_val_depends_only_on_the_seed():
    data = data_of([50, 50])
    val = split(data, DataConfig()).val
    assert np.array_equal(val, split(data, DataConfig(train_images=10)).val)
    assert not np.array_equal(val, split(data, DataConfig(split_seed=1)).val)


def test_a_draw_is_even_and_a_subset_of_a_larger_draw():
    data = data_of([100, 25, 5])
    few, more = (split(data, DataConfig(train_images=count)).train for count in (12, 40))
    assert np.bincount(data.labels[few]).tolist() == [4, 4, 4] and set(few) < set(more)
    assert np.bincount(data.labels[more]).tolist() == [18, 18, 4]


def test_groups_are_never_divided():
    data = data_of([60, 60], groups=lambda labels: np.arange(len(labels)) % 6)
    splits = split(data, DataConfig(val_fraction=0.3))
    assert (
        not set(data.groups[splits.train]) & set(data.groups[splits.val]) and len(splits.val) == 40
    )


def test_groups_within_classes_are_stratified():
    data = data_of([60, 40], groups=lambda labels: labels * 100 + np.arange(len(labels)) % 10)
    splits = split(data, DataConfig(val_fraction=0.2))
    assert not set(data.groups[splits.train]) & set(data.groups[splits.val])
    assert np.abs(np.bincount(data.labels[splits.val]) - [12, 8]).max() <= 4


def test_one_group_is_held_out_even_if_it_exceeds_the_share():
    data = data_of([40, 40], groups=lambda labels: np.arange(len(labels)) % 4)
    assert len(split(data, DataConfig(val_fraction=0.01)).val) == 20


def test_small_classes_give_val_what_they_can_spare():
    data = data_of([1, 2, 3, 4, 100, 0])
    for fraction, expected in ((0.1, [0, 1, 1, 1, 10]), (0.8, [0, 1, 2, 3, 80])):
        splits = split(data, DataConfig(val_fraction=fraction))
        assert np.bincount(data.labels[splits.val]).tolist() == expected
        assert len(splits.train) + len(splits.val) == 110
    note = "class class 0 can't spare a training image, so val has none of it"
    assert val_note(data, DataConfig(train_images=10_000)) == note
    assert val_note(data_of([5, 5]), DataConfig()) is None


def test_the_note_counts_and_names_classes_that_are_not_in_val():
    note = val_note(data_of([1, 1, 5, 1, 1]), DataConfig())
    assert note == (
        "4 classes (class 0, class 1, class 3, …) can't spare a training image, so val has none "
        "of them"
    )


def test_the_last_group_of_a_class_stays_in_train():
    """Class 1 is only in group 7. If val took it, train would have none."""
    data = data_of([60, 10], groups=lambda labels: np.where(labels == 1, 7, np.arange(70) % 4))
    splits = split(data, DataConfig())
    assert np.bincount(data.labels[splits.train], minlength=2)[1] == 10 and len(splits.val) > 0
    assert not set(data.groups[splits.train]) & set(data.groups[splits.val])
    note = "class class 1 can't spare a training group of images, so val has none of it"
    assert val_note(data, DataConfig()) == note


def test_the_splits_of_larger_classes_have_not_changed():
    """Embeddings and published results depend on these ids."""
    digests = []
    for groups in (None, lambda labels: np.arange(len(labels)) % 9):
        splits = split(data_of([40, 25, 9], groups), DataConfig(train_images=20, split_seed=3))
        parts = [splits.train.tolist(), splits.val.tolist()]
        digests.append(hashlib.sha256(repr(parts).encode()).hexdigest()[:12])
    assert digests == ["b5f53473523a", "6bf44a7c4153"]


def test_a_class_without_images_is_ignored():
    assert len(split(data_of([20, 0, 20]), DataConfig()).val) == 4


@pytest.mark.parametrize(
    ("counts", "config", "match"),
    [
        ([1, 1], {"val_fraction": 0.8}, "no class has two readable training images, so none can"),
        (
            [50, 50],
            {"train_images": 91},
            "data.train_images is 91, but without val only 90 are left",
        ),
    ],
)
def test_data_that_can_not_be_split_is_a_user_error(counts, config, match):
    with pytest.raises(UserError, match=match):
        split(data_of(counts), DataConfig(**config))
