"""Split a packed store into train, val and test ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import list_names
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

    Every class that has images keeps one in train, and gives at least one to val if it can spare
    it. A class with a single image (or group) is in train alone; `val_note` counts such classes.

    Args:
        packed: the images.
        config: uses `split_seed`, `val_fraction` and `train_images`.

    Raises:
        UserError: no class can spare an image for val, or `data.train_images` is more than there
            are.
    """
    ids = packed.train_ids
    labels = packed.labels[: packed.rows["train"]]
    rng = np.random.Generator(np.random.Philox(config.split_seed))
    # Val is drawn first, so that it does not depend on `train_images`.
    if packed.groups is None:
        counts = np.bincount(labels)
        val_counts = _round_half_up(counts * config.val_fraction)
        # At least one where a class has two, and never all.
        val_counts = np.minimum(np.maximum(val_counts, 1), counts - 1)
        in_val = _rank_in_class(labels, rng) < val_counts[labels]
    else:
        in_val = _whole_groups(packed.groups[: len(ids)], labels, config.val_fraction, rng)
    if not in_val.any():
        grouped = "" if packed.groups is None else " in different groups"
        raise UserError(
            f"no class has two readable training images{grouped}, so none can give one to val; add "
            "images"
        )
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
    order = rng.permutation(len(distinct))
    taken = _take_groups(counts, order, missing, np.full(counts.shape[1], np.inf))
    # Some class has no image left in train. Keep at least one group of each, but only then: splits
    # that were fine without this rule must stay the same.
    totals = counts.sum(0)
    if ((counts[taken].sum(0) == totals) & (totals > 0)).any():
        taken = _take_groups(counts, order, missing, totals)
    return taken[group_of_sample]


def _take_groups(
    counts: NDArray[np.floating[Any]],
    order: Ids,
    missing: NDArray[np.floating[Any]],
    limits: NDArray[np.floating[Any]],
) -> NDArray[np.bool_]:
    """Return which groups are in val: [groups], booleans. See `_whole_groups`.

    Args:
        counts: number of images of each group and class, [groups, classes].
        order: in which the groups are looked at.
        missing: how many images of each class val lacks, [classes].
        limits: number of images of each class that val must stay below, [classes].
    """
    taken = np.zeros(len(counts), bool)
    for group in order:
        added = counts[group]
        in_val = counts[taken].sum(0)
        if (in_val + added >= limits)[added > 0].any():
            continue
        is_first_of_a_class = (in_val[added > 0] == 0).any()
        is_closer = np.abs(missing - added).sum() < np.abs(missing).sum()
        if is_first_of_a_class or is_closer:
            taken[group] = True
            missing = missing - added
    return taken


def val_note(packed: PackedImages, config: DataConfig) -> str | None:
    """Return a sentence that counts the classes with training images of which none is in val.

    Returns:
        None if there are none. A class without any image doesn't count: a list of names may have
        more classes than a subset.

    Raises:
        UserError: val would be empty.
    """
    in_train = np.unique(packed.labels[: packed.rows["train"]])
    # Val does not depend on the number of training images, which may be more than there are.
    splits = split(packed, config.model_copy(update={"train_images": None}))
    absent = np.setdiff1d(in_train, packed.labels[splits.val])
    if not len(absent):
        return None
    reason = "image" if packed.groups is None else "group of images"
    listed = list_names([packed.names[label] for label in absent])
    return f"{listed} can't spare a training {reason}, so val has none of {_them(absent)}"


def _them(items: Ids) -> str:
    return "it" if len(items) == 1 else "them"


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
