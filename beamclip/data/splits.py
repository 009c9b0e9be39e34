"""Train, val and test ids of a packed store."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.packed import Ids, PackedImages


@dataclass(frozen=True)
class Splits:
    """Sample ids, sorted, int64. No id is in two of them, and no group is in both train and val."""

    train: Ids
    val: Ids
    test: Ids


def split(packed: PackedImages, config: DataConfig) -> Splits:
    """Hold val out of train, stratified, then draw `data.train_images` evenly over the classes from what is left.

    The same seed gives the same val whatever `train_images`, and a smaller draw is part of a larger one. Where the
    source has groups, val takes whole groups, at least one, as near to the share of each class as they allow.

    Raises:
        UserError: a class has too few images for `data.val_fraction`, or `data.train_images` is more than there is.
    """
    ids, labels = packed.train_ids, packed.labels[: packed.rows["train"]]
    rng = np.random.Generator(np.random.Philox(config.split_seed))
    if packed.groups is None:
        held_out = _ranks(labels, rng) < _half_up(np.bincount(labels) * config.val_fraction)[labels]
    else:
        held_out = _whole_groups(packed.groups[: len(ids)], labels, config.val_fraction, rng)
    _check_classes(packed, labels, held_out, config)
    train = _draw(ids[~held_out], labels[~held_out], rng, config)
    return Splits(train, ids[held_out], packed.test_ids)


def _half_up(counts: NDArray[np.floating[Any]]) -> Ids:
    # 5 * 0.3 rounds as 1.5 does, whatever its last bit.
    return np.asarray(np.floor(counts + 0.5 + 1e-9), np.int64)


def _ranks(labels: Ids, rng: np.random.Generator) -> Ids:
    """A random order within each class: [N] labels -> [N] places from 0."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def _whole_groups(
    groups: Ids, labels: Ids, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Take groups in random order: each that brings classes nearer to their shares, or gives one its first images."""
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), labels.max(initial=0) + 1))
    np.add.at(counts, (group, labels), 1)
    missing, taken = fraction * counts.sum(0), np.zeros(len(names), bool)
    for one in rng.permutation(len(names)):
        first = (counts[taken].sum(0)[counts[one] > 0] == 0).any()
        if first or np.abs(missing - counts[one]).sum() < np.abs(missing).sum():
            taken[one] = True
            missing = missing - counts[one]
    return taken[group]


def _check_classes(
    packed: PackedImages, labels: Ids, held_out: NDArray[np.bool_], config: DataConfig
) -> None:
    """A class that has no images at all is left alone: a name file may list more classes than a subset holds."""
    for label in np.unique(labels):
        val, total = int(held_out[labels == label].sum()), int((labels == label).sum())
        if val == 0 or val == total:
            what = "val" if val == 0 else "train"
            raise UserError(
                f"class {packed.names[label]} has {total} readable training images, of which data.val_fraction "
                f"{config.val_fraction} leaves none for {what}; add images or change data.val_fraction"
            )


def even_subset(ids: Ids, labels: Ids, count: int, seed: int = 0) -> Ids:
    """`count` of these ids, drawn evenly over their classes, sorted.

    ids, labels: [N]. A smaller draw with the same seed is part of a larger one.
    """
    return _evenly(ids, labels, count, np.random.Generator(np.random.Philox(seed)))


def _evenly(ids: Ids, labels: Ids, count: int, rng: np.random.Generator) -> Ids:
    """The first of each class, then the second of each, and so on."""
    return np.sort(ids[np.lexsort((labels, _ranks(labels, rng)))[:count]])


def _draw(ids: Ids, labels: Ids, rng: np.random.Generator, config: DataConfig) -> Ids:
    wanted = config.train_images
    if wanted is None:
        return ids
    if wanted > len(ids):
        raise UserError(
            f"data.train_images is {wanted} but only {len(ids)} are left beside val; lower it"
        )
    return _evenly(ids, labels, wanted, rng)
