"""The teacher passes that experiments will need, also where their images are not packed yet."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beamclip.balance import balance_parts, clusters_parts, kept_ids
from beamclip.balance import clusters as clustering
from beamclip.balance import store as balancing
from beamclip.balance.neighbors import seconds_to_compare
from beamclip.config import Experiment, TowerConfig, ViewsConfig
from beamclip.data import PackedImages, Splits
from beamclip.data.packed import Ids
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import parts_of
from beamclip.preparation.teacher_passes import group_of, towers_and_views
from beamclip.preparation.train_subset import canonical_view, offered
from beamclip.stores import Store, StoreDamaged, key_of, open_store, store_path
from beamclip.teachers import Teacher, ViewSet

# One store that is needed: whether it is there, and what it would take.


@dataclass(frozen=True)
class PlannedStore:
    """One store that a search space needs. JSON values only.

    Attributes:
        store: what kind it is.
        what: what it holds, for people.
        there: whether it exists and is whole.
        images: images that have to be worked on; 0 where it is there, the rest where a killed command has begun with it.
        bytes: its size, or that of what is missing of it.
        seconds: how long making it will take at the rate measured just now; None where nobody can know yet.
    """

    store: str
    what: str
    there: bool
    images: int
    bytes: int
    seconds: float | None


def open_if_intact(path: Path, workshop: PreparationContext) -> Store | None:
    """A store that exists. A damaged one counts as missing where it will be repaired."""
    try:
        return open_store(path) if path.exists() else None
    except StoreDamaged:
        if not workshop.repair:
            raise
        return None


# What a plan can say of balances and clusters before they are made.


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


def foresee(
    experiment: Experiment,
    packed: PackedImages | None,
    splits: Splits,
    teacher: Teacher | None,
    workshop: PreparationContext,
) -> Foreseen:
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
    return Foreseen(
        experiment,
        ids,
        about if store is None else kept_ids(store),
        store is not None,
        packed,
        teacher,
    )


def _balance(foreseen: Foreseen, workshop: PreparationContext) -> Store | None:
    basis = foreseen.basis(foreseen.offered)
    if basis is None:
        return None
    return open_if_intact(
        store_path(
            workshop.root, balancing.KIND, balance_parts(basis, foreseen.experiment.balance)
        ),
        workshop,
    )


def choosing_needs(foreseen: Foreseen, workshop: PreparationContext) -> dict[str, PlannedStore]:
    """The stores of balance and clusters that an experiment needs, by what tells them from other experiments'."""
    needs = dict[str, PlannedStore]()
    if foreseen.experiment.balance.active:
        needs |= _balance_need(foreseen, workshop)
    if foreseen.experiment.objective.needs.clusters:
        needs |= _clusters_need(foreseen, workshop)
    return needs


def _balance_need(foreseen: Foreseen, workshop: PreparationContext) -> dict[str, PlannedStore]:
    config, images = foreseen.experiment.balance, len(foreseen.offered)
    asked = (
        f"without {100 * (config.remove or 0):g} %"
        if config.threshold is None
        else f"joined below {config.threshold:g}"
    )
    basis = foreseen.basis(foreseen.offered)
    parts = (
        {"images": images} | config.model_dump() if basis is None else balance_parts(basis, config)
    )
    exact = config.search != "index" and (config.search == "exact" or images <= balancing.EXACT)
    seconds = (
        2 * seconds_to_compare(images, foreseen.teacher.width)
        if foreseen.teacher is not None and exact
        else None
    )
    path = None if basis is None else store_path(workshop.root, balancing.KIND, parts)
    what = f"{_images(foreseen.packed is not None, images)} {asked}"
    return _need("balance", what, parts, path, 56 * images + 300_000, seconds, workshop)


def _clusters_need(foreseen: Foreseen, workshop: PreparationContext) -> dict[str, PlannedStore]:
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
    kind: str,
    what: str,
    parts: dict[str, Any],
    path: Path | None,
    size: int,
    seconds: float | None,
    workshop: PreparationContext,
) -> dict[str, PlannedStore]:
    store = None if path is None else open_if_intact(path, workshop)
    there = store is not None
    return {
        f"{kind} {key_of(parts)}": PlannedStore(
            kind, what, there, 0, store.bytes if store else size, 0.0 if there else seconds
        )
    }


@dataclass(frozen=True)
class ForeseenPass:
    """As `Wanted`, also where images are not packed yet: `packed` is None then, and the views are near only.

    Attributes:
        name: of the recipe, for people.
        sure: whether these are the very samples.
    """

    tower: TowerConfig
    packed: PackedImages | None
    views: ViewSet
    name: str
    sure: bool

    def described(self, several: bool) -> str:
        """What it holds, for people.

        Args:
            several: passes of several recipes are spoken of, so that each is named.
        """
        if not self.views.recipe.random:
            return "the central view"
        return f"{self.views.count} view{'s' if self.views.count > 1 else ''}{f' ({self.name})' if several else ''}"


def foreseen_passes(
    foreseen: Iterable[tuple[Foreseen, Splits]], workshop: PreparationContext
) -> list[ForeseenPass]:
    """The fewest passes that cover all that these experiments need, as `make_passes` will join them."""
    groups: dict[str, ForeseenPass] = {}
    for one, splits in foreseen:
        canonical, images = (
            canonical_view(one.experiment, one.offered),
            workshop.packed_path(one.experiment.data).name,
        )
        first = [] if canonical is None else [(one.experiment.teacher, canonical)]
        for tower, views in [*first, *towers_and_views(one.experiment, splits, one.trained)]:
            sure = one.sure or (
                one.packed is not None and not views.recipe.random
            )  # canonical views are made of all that are offered
            known = groups.get(group := group_of(tower, images, views))
            new = ForeseenPass(tower, one.packed, views, _named(one.experiment.shown), sure)
            groups[group] = new if known is None else joined(known, new)
    return list(groups.values())


def joined(one: ForeseenPass, other: ForeseenPass) -> ForeseenPass:
    """One pass for two. It is sure where both are, or where one that is sure holds all samples of the other."""
    views = one.views.joined(other.views)
    all_of = [part.sure and len(part.views.ids) == len(views.ids) for part in (one, other)]
    return replace(one, views=views, sure=(one.sure and other.sure) or any(all_of))


def _named(views: ViewsConfig) -> str:
    return views.recipe if views.strength == 1 else f"{views.recipe} × {views.strength:g}"
