"""Select the training images that students learn from, and cluster them, before trials start.

The selection works on the first teacher's embeddings of canonical views: `data.keep` lists images,
`balance` drops near-duplicates, and CLIP-CID needs clusters. It only affects what students are
*trained* on. Probes, val and test always use all images, the same ones for every method.
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

# Entries of a balance's report that go into the record of every run.
_REPORTED = ("threshold", "removed_share", "kept", "images", "sets", "largest", "search")


@dataclass(frozen=True)
class TrainSubset:
    """The images that an experiment's students are trained on.

    Attributes:
        ids: sorted sample ids.
        store: the store that holds them; None if they are all of train.
        clusters: the store of their clusters; None if the objective needs none.
        facts: JSON values about the balance and the list of `data.keep`; None without either.
    """

    ids: Ids
    store: Store | None = None
    clusters: Store | None = None
    facts: Mapping[str, Any] | None = None


def candidate_ids(experiment: Experiment, packed: PackedImages, splits: Splits) -> Ids:
    """Return the training images before any balance, as sorted sample ids.

    These are all of train, or the ones that `data.keep` lists.

    Raises:
        UserError: as `read_kept_list`; no listed image is in train; or the list was made with
            another split, and images of it are now in val.
    """
    if experiment.data.keep is None:
        return splits.train
    kept = _read_kept_list(experiment, packed)
    ids = np.intersect1d(splits.train, kept.ids)
    if not len(ids):
        raise UserError(
            f"data.keep {experiment.data.keep} lists no image of train as it is split here; "
            "make it with the same data settings"
        )
    _check_split(experiment, kept, splits)
    return ids


def _read_kept_list(experiment: Experiment, packed: PackedImages) -> KeptList:
    return read_kept_list(Path(str(experiment.data.keep)).expanduser(), packed)


def _check_split(experiment: Experiment, kept: KeptList, splits: Splits) -> None:
    """Raise UserError if another split than the list's moved listed images to val.

    Without this check, a run would silently train on fewer images than were kept.
    """
    data = experiment.data
    if kept.split is None:
        return
    list_split = (kept.split["split_seed"], kept.split["val_fraction"])
    lost = len(np.intersect1d(splits.val, kept.ids))
    if not lost or list_split == (data.split_seed, data.val_fraction):
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
        ids: its `candidate_ids`.

    Returns:
        The canonical views of these images, or None if nothing is selected or clustered.
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
        packed: its images.
        ids: its `candidate_ids`.
        canonical: a store with their `selection_views`, or None if there are none.
        context: the surroundings.

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
        facts = {**(facts or {}), **{name: report[name] for name in _REPORTED}}
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
    """Return all that the canonical embeddings of these images depend on."""
    return embedding_parts(context.teacher(experiment.teacher), packed, ViewSet.center(ids))


def _kept_list_store(packed: PackedImages, ids: Ids, context: PreparationContext) -> Store:
    """Copy a kept list to a store, which all workers can read even if the file is deleted."""
    parts = {"images": packed.key, **ViewSet.center(ids).key_parts()}

    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / KEPT_FILE, np.ascontiguousarray(ids, "<i8"))
        return {"kept": len(ids)}

    return build_once(context.root, KEPT_LIST_KIND, parts, build, context.progress, context.repair)


def _kept_list_facts(experiment: Experiment, packed: PackedImages) -> dict[str, Any]:
    """Return how a kept list overlaps with train as it is split now; JSON values.

    `never_weighed` counts the training images that the balance of the list did not know.
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
        list_data = experiment.data.model_copy(update=dict(kept.split))
        list_train = split(packed, list_data).train
        facts["never_weighed"] = len(np.setdiff1d(train, list_train))
        facts["made_with"] = {**kept.split, "weighed": kept.weighed}
    return facts
