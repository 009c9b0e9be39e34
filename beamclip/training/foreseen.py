"""What a plan can say of balances and clusters before they are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamclip.balance import balance_parts, clusters_parts, kept_ids
from beamclip.balance import clusters as clustering
from beamclip.balance import store as balancing
from beamclip.balance.search import seconds_to_compare
from beamclip.config import Experiment
from beamclip.data import PackedImages, Splits
from beamclip.data.packed import Ids
from beamclip.stores import Store, key_of, store_path
from beamclip.teachers import Teacher, ViewSet, parts_of
from beamclip.training.choosing import offered
from beamclip.training.need import Need, whole
from beamclip.training.workshop import Workshop

_ITERATIONS = 30  # of k-means, about


@dataclass(frozen=True)
class Foreseen:
    """What an experiment's students will learn from, as far as that is known.

    Attributes:
        offered: sample ids before any balance.
        trained: after it; where it is not made yet, about as many as there will be.
        sure: whether these are the very ids.
        packed: None where the images are not packed yet.
        teacher: None where it must be made first.
    """

    experiment: Experiment
    offered: Ids
    trained: Ids
    sure: bool
    packed: PackedImages | None
    teacher: Teacher | None

    def basis(self, ids: Ids) -> dict[str, Any] | None:
        """What the canonical embeddings of these images depend on, where that is known."""
        if self.packed is None or self.teacher is None:
            return None
        return parts_of(self.teacher, self.packed, ViewSet.center(ids))


def foresee(experiment: Experiment, packed: PackedImages | None, splits: Splits, teacher: Teacher | None, workshop: Workshop) -> Foreseen:
    """See `Foreseen`.

    Args:
        splits: near only, where nothing is packed.

    Raises:
        UserError: as `offered`.
    """
    ids = splits.train if packed is None else offered(experiment, packed, splits)
    before = Foreseen(experiment, ids, ids, packed is not None, packed, teacher)
    if not experiment.balance.active:
        return before
    store = _balance(before, workshop)
    about = ids[: max(1, round(len(ids) * (1 - (experiment.balance.remove or 0))))]
    return Foreseen(experiment, ids, about if store is None else kept_ids(store), store is not None, packed, teacher)


def _balance(foreseen: Foreseen, workshop: Workshop) -> Store | None:
    basis = foreseen.basis(foreseen.offered)
    if basis is None:
        return None
    return whole(store_path(workshop.root, balancing.KIND, balance_parts(basis, foreseen.experiment.balance)), workshop)


def choosing_needs(foreseen: Foreseen, workshop: Workshop) -> dict[str, Need]:
    """The stores of balance and clusters that an experiment needs, by what tells them from other experiments'."""
    needs = dict[str, Need]()
    if foreseen.experiment.balance.active:
        needs |= _balance_need(foreseen, workshop)
    if foreseen.experiment.objective.needs.clusters:
        needs |= _clusters_need(foreseen, workshop)
    return needs


def _balance_need(foreseen: Foreseen, workshop: Workshop) -> dict[str, Need]:
    config, images = foreseen.experiment.balance, len(foreseen.offered)
    asked = f"without {100 * (config.remove or 0):g} %" if config.threshold is None else f"joined below {config.threshold:g}"
    basis = foreseen.basis(foreseen.offered)
    parts = {"images": images} | config.model_dump() if basis is None else balance_parts(basis, config)
    exact = config.search != "index" and (config.search == "exact" or images <= balancing.EXACT)
    seconds = 2 * seconds_to_compare(images, foreseen.teacher.width) if foreseen.teacher is not None and exact else None
    path = None if basis is None else store_path(workshop.root, balancing.KIND, parts)
    what = f"{_images(foreseen.packed is not None, images)} {asked}"
    return _need("balance", what, parts, path, 56 * images + 300_000, seconds, workshop)


def _clusters_need(foreseen: Foreseen, workshop: Workshop) -> dict[str, Need]:
    count, images = foreseen.experiment.objective.clip_cid.clusters, len(foreseen.trained)
    basis = foreseen.basis(foreseen.trained) if foreseen.sure else None
    parts = {"images": images, "count": count} if basis is None else clusters_parts(basis, count)
    width = 0 if foreseen.teacher is None else foreseen.teacher.width
    seconds = _ITERATIONS * count / images * seconds_to_compare(images, width) if width else None
    path = None if basis is None else store_path(workshop.root, clustering.KIND, parts)
    what = f"{count} of {_images(foreseen.sure, images)}"
    return _need("clusters", what, parts, path, 4 * count * width + 16 * images, seconds, workshop)


def _images(sure: bool, count: int) -> str:
    return f"{'' if sure else 'about '}{count:,} images"


def _need(
    kind: str, what: str, parts: dict[str, Any], path: Path | None, size: int, seconds: float | None, workshop: Workshop
) -> dict[str, Need]:
    store = None if path is None else whole(path, workshop)
    there = store is not None
    return {f"{kind} {key_of(parts)}": Need(kind, what, there, 0, store.bytes if store else size, 0.0 if there else seconds)}
