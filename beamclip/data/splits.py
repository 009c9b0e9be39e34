"""Split a packed store into train, val and test ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.packed import Ids, PackedImages


@dataclass(frozen=True)
class Splits:
    """Sorted sample ids, int64. No id is in two splits, and no group is in both train and val."""

    train: Ids
    val: Ids
    test: Ids


def split(packed: PackedImages, config: DataConfig) -> Splits:
    """Take val out of train, stratified, then draw `data.train_images` evenly over the classes.

    The same seed gives the same val for any `train_images`, and a smaller draw is part of a larger
    one. If the source has groups, val takes whole groups, at least one, and keeps to the share of
    each class as closely as they allow.

    Args:
        packed: the images.
        config: uses `split_seed`, `val_fraction` and `train_images`.

    Raises:
        UserError: a class has too few images for `data.val_fraction`, or `data.train_images` is
            more than there are.
    """
    ids = packed.train_ids
    labels = packed.labels[: packed.rows["train"]]
    rng = np.random.Generator(np.random.Philox(config.split_seed))
    # Val is drawn first, so that it does not depend on `train_images`.
    if packed.groups is None:
        val_counts = _round_half_up(np.bincount(labels) * config.val_fraction)
        in_val = _rank_in_class(labels, rng) < val_counts[labels]
    else:
        in_val = _whole_groups(packed.groups[: len(ids)], labels, config.val_fraction, rng)
    _check_classes(packed, labels, in_val, config)
    train = _draw(ids[~in_val], labels[~in_val], rng, config)
    return Splits(train, ids[in_val], packed.test_ids)


def _round_half_up(counts: NDArray[np.floating[Any]]) -> Ids:
    # 5 images times 0.3 may fall short of 1.5 by a last bit; the small term makes it 2 anyway.
    return np.asarray(np.floor(counts + 0.5 + 1e-9), np.int64)


def _rank_in_class(labels: Ids, rng: np.random.Generator) -> Ids:
    """Return each sample's position in a random order of its class: [N] -> [N], from 0."""
    # Shuffle, then sort by class. A stable sort keeps the random order within each class.
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Where the class of each sorted sample starts in the sorted list.
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def _whole_groups(
    groups: Ids, labels: Ids, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which samples are in val, taking whole groups in random order.

    A group is taken if it brings the classes closer to their shares, or gives a class its first
    images.

    Args:
        groups: group of each sample, [N].
        labels: class of each sample, [N].
        fraction: share of each class that val should get.
        rng: random generator for the order of the groups.

    Returns:
        Booleans, [N].
    """
    distinct, group_of_sample = np.unique(groups, return_inverse=True)
    # Number of images of each group and class, [groups, classes].
    counts = np.zeros((len(distinct), labels.max(initial=0) + 1))
    np.add.at(counts, (group_of_sample, labels), 1)
    # How many images of each class val still lacks; negative if it has too many.
    missing = fraction * counts.sum(0)
    taken = np.zeros(len(distinct), bool)
    for group in rng.permutation(len(distinct)):
        added = counts[group]
        in_val = counts[taken].sum(0)
        is_first_of_a_class = (in_val[added > 0] == 0).any()
        is_closer = np.abs(missing - added).sum() < np.abs(missing).sum()
        if is_first_of_a_class or is_closer:
            taken[group] = True
            missing = missing - added
    return taken[group_of_sample]


def _check_classes(
    packed: PackedImages, labels: Ids, in_val: NDArray[np.bool_], config: DataConfig
) -> None:
    """Raise UserError if a class has images, but none in train or none in val.

    A class without any image is accepted: a name file may list more classes than a subset has.
    """
    for label in np.unique(labels):
        val = int(in_val[labels == label].sum())
        total = int((labels == label).sum())
        if val in (0, total):
            empty = "val" if val == 0 else "train"
            raise UserError(
                f"class {packed.names[label]} has {total} readable training images, of which "
                f"data.val_fraction {config.val_fraction} leaves none for {empty}; "
                "add images or change data.val_fraction"
            )


def even_subset(ids: Ids, labels: Ids, count: int, seed: int = 0) -> Ids:
    """Return `count` of the ids, drawn evenly over their classes, sorted.

    A smaller draw with the same seed is part of a larger one.

    Args:
        ids: sample ids, [N].
        labels: their classes, [N].
        count: number of ids to return; all ids if there are fewer.
        seed: seed of the draw.
    """
    return _evenly(ids, labels, count, np.random.Generator(np.random.Philox(seed)))


def _evenly(ids: Ids, labels: Ids, count: int, rng: np.random.Generator) -> Ids:
    """Return `count` ids, sorted, drawn in rounds: each takes one random id of every class."""
    # The last key of `lexsort` is the primary one: sort by rank, then by label.
    order = np.lexsort((labels, _rank_in_class(labels, rng)))
    return np.sort(ids[order[:count]])


def _draw(ids: Ids, labels: Ids, rng: np.random.Generator, config: DataConfig) -> Ids:
    """Draw `data.train_images` of the ids; return all of them if it is not set."""
    count = config.train_images
    if count is None:
        return ids
    if count > len(ids):
        raise UserError(
            f"data.train_images is {count}, but without val only {len(ids)} are left; lower it"
        )
    return _evenly(ids, labels, count, rng)
