"""Which of the training images students learn from, and what clusters these form: found before trials start, from canonical views.

Only what students are *trained* on is chosen here. Probes, val and test always have all images, so that every method gets the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance import balance, cluster, kept_ids, read_kept, report_in
from beamclip.balance.store import KEPT, KEPT_LIST
from beamclip.config import Experiment, UserError
from beamclip.data import PackedImages, Splits
from beamclip.data.packed import Ids
from beamclip.stores import Store, build_once
from beamclip.teachers import Embeddings, ViewSet, parts_of
from beamclip.training.workshop import Workshop


@dataclass(frozen=True)
class Chosen:
    """What students of an experiment learn from.

    Attributes:
        trained: sorted sample ids.
        store: which holds them; None where they are all of train.
        clusters: a store of clusters of these images, None where the objective needs none.
        facts: of the balance, None where there was none.
    """

    trained: Ids
    store: Store | None = None
    clusters: Store | None = None
    facts: Mapping[str, Any] | None = None


def offered(experiment: Experiment, packed: PackedImages, splits: Splits) -> Ids:
    """The training images before any balance: all of train, or those of it that `data.keep` lists. Sorted.

    Raises:
        UserError: as `read_kept`, or none of those listed is in train.
    """
    keep = experiment.data.keep
    if keep is None:
        return splits.train
    ids = np.intersect1d(splits.train, read_kept(Path(keep).expanduser(), packed))
    if not len(ids):
        raise UserError(f"data.keep {keep} lists no image of train as it is split here; make it with the same data settings")
    return ids


def canonical_view(experiment: Experiment, ids: Ids) -> ViewSet | None:
    """The canonical views of these `offered` images, where the first teacher must have seen them before any can be chosen."""
    return ViewSet.center(ids) if experiment.balance.active or experiment.objective.needs.clusters else None


def choose(experiment: Experiment, packed: PackedImages, ids: Ids, canonical: Embeddings | None, workshop: Workshop) -> Chosen:
    """Balance and cluster an experiment's training images, or open the stores where that was done.

    Args:
        ids: of the images `offered`.
        canonical: a store that holds their `canonical_view`.

    Raises:
        UserError: there are more clusters than images left, or as `balance`.
    """
    store = None if experiment.data.keep is None else _as_store(packed, ids, workshop)
    facts = None
    if canonical is not None and experiment.balance.active:
        store = balance_of(experiment, packed, ids, canonical, workshop)
        ids, facts = kept_ids(store), _facts(report_in(store))
    clusters = None
    if canonical is not None and experiment.objective.needs.clusters:
        count = experiment.objective.clip_cid.clusters
        clusters = cluster(_basis(experiment, packed, ids, workshop), canonical, ids, count, *_hands(workshop))
    return Chosen(ids, store, clusters, facts)


def balance_of(experiment: Experiment, packed: PackedImages, ids: Ids, canonical: Embeddings, workshop: Workshop) -> Store:
    """The store of the images that are kept of these; see `beamclip.balance.balance`."""
    return balance(_basis(experiment, packed, ids, workshop), canonical, packed, ids, experiment.balance, *_hands(workshop))


def _basis(experiment: Experiment, packed: PackedImages, ids: Ids, workshop: Workshop) -> dict[str, Any]:
    return parts_of(workshop.teacher(experiment.teacher), packed, ViewSet.center(ids))


def _hands(workshop: Workshop) -> tuple[Path, Any, bool]:
    return workshop.root, workshop.progress, workshop.repair


def _as_store(packed: PackedImages, ids: Ids, workshop: Workshop) -> Store:
    """A kept list where all workers see it, whatever becomes of the file."""
    parts = {"images": packed.key, **ViewSet.center(ids).parts()}

    def build(folder: Path) -> dict[str, Any]:
        np.save(folder / KEPT, np.ascontiguousarray(ids, "<i8"))
        return {"kept": len(ids)}

    return build_once(workshop.root, KEPT_LIST, parts, build, workshop.progress, workshop.repair)


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("threshold", "removed_share", "kept", "images", "sets", "largest", "search")}
