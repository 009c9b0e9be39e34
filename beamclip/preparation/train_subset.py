"""Select and cluster the images that students are trained on, before trials start.

`data.keep` lists the images to train on, `balance` drops near-duplicates, and CLIP-CID needs
clusters. Balance and clusters use the first teacher's embeddings of the canonical views.

Only the *training* of students is affected. Probes use all of train, val and test, so that every
method is measured on the same images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance import (
    KeptList,
    balance,
    cluster,
    kept_ids,
    read_balance_report,
    read_kept_list,
)
from beamclip.balance.store import KEPT_FILE, KEPT_LIST_KIND
from beamclip.config import Experiment, UserError
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import embedding_parts
from beamclip.stores import Store, build_once
from beamclip.teachers import Embeddings, ViewSet

# Entries of a balance's report that are recorded with every run.
_RECORDED_FIELDS = ("threshold", "removed_share", "kept", "images", "sets", "largest", "search")


@dataclass(frozen=True)
class TrainSubset:
    """The images that an experiment's students are trained on.

    Attributes:
        ids: sorted sample ids, int64 [N].
        store: the store that holds these ids; None if students are trained on all of train.
        clusters: the store of the clusters of these images; None if the objective needs none.
        facts: facts about the balance and the list of `data.keep`, JSON values; None without
            either.
    """

    ids: Ids
    store: Store | None = None
    clusters: Store | None = None
    facts: Mapping[str, Any] | None = None


def candidate_ids(experiment: Experiment, packed: PackedImages, splits: Splits) -> Ids:
    """Return the training images before any balance, as sorted sample ids.

    These are all of train, or those that `data.keep` lists.

    Raises:
        UserError: the kept list can't be read or is of other images; no listed image is in train;
            or the list was made with another split, and some of its images are now in val.
    """
    if experiment.data.keep is None:
        return splits.train
    kept = _read_kept_list(experiment, packed)
    ids = np.intersect1d(splits.train, kept.ids)
    if not len(ids):
        raise UserError(
            f"data.keep {experiment.data.keep} lists no image of this run's train split; "
            "make it with the same data settings"
        )
    _check_split(experiment, kept, splits)
    return ids


def _read_kept_list(experiment: Experiment, packed: PackedImages) -> KeptList:
    return read_kept_list(Path(str(experiment.data.keep)).expanduser(), packed)


def _check_split(experiment: Experiment, kept: KeptList, splits: Splits) -> None:
    """Raise UserError if this run's split differs from the list's and puts listed images in val.

    Without this check, a run would silently train on fewer images than were kept.
    """
    data = experiment.data
    # Some lists do not say with which split they were made.
    if kept.split is None:
        return
    list_split = (kept.split["split_seed"], kept.split["val_fraction"])
    same_split = list_split == (data.split_seed, data.val_fraction)
    lost = len(np.intersect1d(splits.val, kept.ids))
    if same_split or lost == 0:
        return
    raise UserError(
        f"data.keep {data.keep} was balanced with data.split_seed={list_split[0]} and "
        f"data.val_fraction={list_split[1]:g}, but with the split of this run {lost} of its "
        f"{len(kept.ids)} images are in val; set both to the list's values, or drop the list and "
        "balance this split with balance.remove"
    )


def selection_views(experiment: Experiment, ids: Ids) -> ViewSet | None:
    """Return the views that the first teacher must have encoded before images can be selected.

    Args:
        experiment: the settings.
        ids: the `candidate_ids` of the experiment.

    Returns:
        The canonical views of these images, or None without balance and clusters.
    """
    if experiment.balance.active or experiment.objective.clusters is not None:
        return ViewSet.center(ids)
    return None


def select_train_subset(
    experiment: Experiment,
    packed: PackedImages,
    ids: Ids,
    canonical: Embeddings | None,
    context: PreparationContext,
) -> TrainSubset:
    """Balance and cluster an experiment's training images; stores that exist are only opened.

    Args:
        experiment: the settings.
        packed: the packed images.
        ids: the `candidate_ids` of the experiment.
        canonical: a store with the `selection_views`; None if there are none.
        context: opens data and teachers.

    Raises:
        UserError: there are more clusters than images left; or as `balance`.
    """
    store: Store | None = None
    facts: dict[str, Any] | None = None
    if experiment.data.keep is not None:
        store = _kept_list_store(packed, ids, context)
        facts = {"kept_list": _kept_list_facts(experiment, packed)}
    if canonical is not None and experiment.balance.active:
        store = balance_store(experiment, packed, ids, canonical, context)
        ids = kept_ids(store)
        report = read_balance_report(store)
        balance_facts = {name: report[name] for name in _RECORDED_FIELDS}
        facts = {**(facts or {}), **balance_facts}
    # Clusters come last, because only the images that are left are clustered.
    clusters = None
    if canonical is not None and experiment.objective.clusters is not None:
        clusters = cluster(
            _canonical_parts(experiment, packed, ids, context),
            canonical,
            ids,
            experiment.objective.clusters,
            context.root,
            context.progress,
            context.repair,
        )
    return TrainSubset(ids, store, clusters, facts)


def balance_store(
    experiment: Experiment,
    packed: PackedImages,
    ids: Ids,
    canonical: Embeddings,
    context: PreparationContext,
) -> Store:
    """Return the store of the images that the balance keeps; see `beamclip.balance.balance`."""
    return balance(
        _canonical_parts(experiment, packed, ids, context),
        canonical,
        packed,
        ids,
        experiment.balance,
        context.root,
        context.progress,
        context.repair,
        data=experiment.data,
    )


def _canonical_parts(
    experiment: Experiment, packed: PackedImages, ids: Ids, context: PreparationContext
) -> dict[str, Any]:
    """Return the parts of the store key of these images' canonical embeddings."""
    return embedding_parts(context.teacher(experiment.teacher), packed, ViewSet.center(ids))


def _kept_list_store(packed: PackedImages, ids: Ids, context: PreparationContext) -> Store:
    """Copy a kept list to a store.

    All workers can then read it, and a sweep can resume even if the file was deleted.
    """
    parts = {"images": packed.key, **ViewSet.center(ids).key_parts()}

    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / KEPT_FILE, np.ascontiguousarray(ids, "<i8"))
        return {"kept": len(ids)}

    return build_once(context.root, KEPT_LIST_KIND, parts, build, context.progress, context.repair)


def _kept_list_facts(experiment: Experiment, packed: PackedImages) -> dict[str, Any]:
    """Return how a kept list and this run's train overlap, as JSON values.

    `never_weighed` is the number of training images that were not in train when the list was made,
    so that its balance neither kept nor dropped them.
    """
    kept = _read_kept_list(experiment, packed)
    train = split(packed, experiment.data).train
    facts: dict[str, Any] = {
        "path": experiment.data.keep,
        "listed": len(kept.ids),
        "listed_in_train": len(np.intersect1d(train, kept.ids)),
        "train": len(train),
    }
    if kept.split is not None:
        # Split once more, as it was when the list was made.
        list_data = experiment.data.model_copy(update=dict(kept.split))
        list_train = split(packed, list_data).train
        facts["never_weighed"] = len(np.setdiff1d(train, list_train))
        facts["made_with"] = {**kept.split, "weighed": kept.weighed}
    return facts
