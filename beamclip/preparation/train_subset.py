"""Which of the training images students learn from, and what clusters these form: found before trials start, from canonical views.

Only what students are *trained* on is chosen here. Probes, val and test always have all images, so that every method gets the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance import Kept, balance, cluster, kept_ids, read_kept, report_in
from beamclip.balance.store import KEPT, KEPT_LIST
from beamclip.config import Experiment, UserError
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import parts_of
from beamclip.stores import Store, build_once
from beamclip.teachers import Embeddings, ViewSet


@dataclass(frozen=True)
class Chosen:
    """What students of an experiment learn from.

    Attributes:
        trained: sorted sample ids.
        store: which holds them; None where they are all of train.
        clusters: a store of clusters of these images, None where the objective needs none.
        facts: of the balance and of a list of `data.keep`, None where there was neither.
    """

    trained: Ids
    store: Store | None = None
    clusters: Store | None = None
    facts: Mapping[str, Any] | None = None


def offered(experiment: Experiment, packed: PackedImages, splits: Splits) -> Ids:
    """The training images before any balance: all of train, or those of it that `data.keep` lists. Sorted.

    Raises:
        UserError: as `read_kept`, none of those listed is in train, or a list that says how train was split lost images to val since.
    """
    if experiment.data.keep is None:
        return splits.train
    kept = _kept(experiment, packed)
    ids = np.intersect1d(splits.train, kept.ids)
    if not len(ids):
        raise UserError(
            f"data.keep {experiment.data.keep} lists no image of train as it is split here; make it with the same data settings"
        )
    _check_split(experiment, kept, splits)
    return ids


def _kept(experiment: Experiment, packed: PackedImages) -> Kept:
    return read_kept(Path(str(experiment.data.keep)).expanduser(), packed)


def _check_split(experiment: Experiment, kept: Kept, splits: Splits) -> None:
    """Under another split than it was balanced in, a list would leave out its own images too, and nobody would hear of it."""
    lost, data = len(np.intersect1d(splits.val, kept.ids)), experiment.data
    if (
        kept.split is None
        or not lost
        or (kept.split["split_seed"], kept.split["val_fraction"])
        == (data.split_seed, data.val_fraction)
    ):
        return
    was = f"data.split_seed={kept.split['split_seed']} and data.val_fraction={kept.split['val_fraction']:g}"
    raise UserError(
        f"data.keep {data.keep} was balanced with {was}, and as this run is split {lost} of its {len(kept.ids)} images are in val; "
        "set both as they were, or have this split balanced with balance.remove instead of the list"
    )


def canonical_view(experiment: Experiment, ids: Ids) -> ViewSet | None:
    """The canonical views of these `offered` images, where the first teacher must have seen them before any can be chosen."""
    return (
        ViewSet.center(ids)
        if experiment.balance.active or experiment.objective.needs.clusters
        else None
    )


def choose(
    experiment: Experiment,
    packed: PackedImages,
    ids: Ids,
    canonical: Embeddings | None,
    workshop: PreparationContext,
) -> Chosen:
    """Balance and cluster an experiment's training images, or open the stores where that was done.

    Args:
        ids: of the images `offered`.
        canonical: a store that holds their `canonical_view`.

    Raises:
        UserError: there are more clusters than images left, or as `balance`.
    """
    listed = experiment.data.keep is not None
    store = _as_store(packed, ids, workshop) if listed else None
    facts = {"kept_list": _list_facts(experiment, packed)} if listed else None
    if canonical is not None and experiment.balance.active:
        store = balance_of(experiment, packed, ids, canonical, workshop)
        ids, facts = kept_ids(store), {**(facts or {}), **_facts(report_in(store))}
    clusters = None
    if canonical is not None and experiment.objective.needs.clusters:
        count = experiment.objective.clip_cid.clusters
        clusters = cluster(
            _basis(experiment, packed, ids, workshop), canonical, ids, count, *_hands(workshop)
        )
    return Chosen(ids, store, clusters, facts)


def balance_of(
    experiment: Experiment,
    packed: PackedImages,
    ids: Ids,
    canonical: Embeddings,
    workshop: PreparationContext,
) -> Store:
    """The store of the images that are kept of these; see `beamclip.balance.balance`."""
    basis, data = _basis(experiment, packed, ids, workshop), experiment.data
    return balance(basis, canonical, packed, ids, experiment.balance, *_hands(workshop), data=data)


def _basis(
    experiment: Experiment, packed: PackedImages, ids: Ids, workshop: PreparationContext
) -> dict[str, Any]:
    return parts_of(workshop.teacher(experiment.teacher), packed, ViewSet.center(ids))


def _hands(workshop: PreparationContext) -> tuple[Path, Any, bool]:
    return workshop.root, workshop.progress, workshop.repair


def _as_store(packed: PackedImages, ids: Ids, workshop: PreparationContext) -> Store:
    """A kept list where all workers see it, whatever becomes of the file."""
    parts = {"images": packed.key, **ViewSet.center(ids).parts()}

    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / KEPT, np.ascontiguousarray(ids, "<i8"))
        return {"kept": len(ids)}

    return build_once(workshop.root, KEPT_LIST, parts, build, workshop.progress, workshop.repair)


def _list_facts(experiment: Experiment, packed: PackedImages) -> dict[str, Any]:
    """What a list is to train as it is split now: how much of it is there, and how much of train it knew nothing of."""
    kept, train = _kept(experiment, packed), split(packed, experiment.data).train
    facts = {
        "path": experiment.data.keep,
        "listed": len(kept.ids),
        "listed_in_train": len(np.intersect1d(train, kept.ids)),
    }
    if kept.split is None:
        return facts | {"train": len(train)}
    before = split(packed, experiment.data.model_copy(update=dict(kept.split))).train
    more = {
        "never_weighed": len(np.setdiff1d(train, before)),
        "made_with": {**kept.split, "weighed": kept.weighed},
    }
    return facts | {"train": len(train), **more}


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: report[name]
        for name in ("threshold", "removed_share", "kept", "images", "sets", "largest", "search")
    }
