"""Plan what a sweep needs before its trials can start, without building anything.

`plan` lists every store that a search space needs, once: those that exist, and those that are
missing with the images, bytes and seconds that they take. Until the images are packed, sample ids
and class count are not known, and until the demo's teacher is trained, neither are its embeddings.
The plan then uses approximate numbers and says "about".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.anchors import AnchorSetPlan, find_anchor_set
from beamclip.balance import balance_parts, clusters_parts, kept_ids
from beamclip.balance import clusters as cluster_store
from beamclip.balance import store as balance_store
from beamclip.balance.neighbors import estimate_comparison_seconds
from beamclip.config import DataConfig, Experiment, TowerConfig, ViewsConfig
from beamclip.data import PackedImages, Source, Splits, open_packed, split
from beamclip.data.base import SPLITS
from beamclip.data.packed import Ids
from beamclip.data.packing import measure_image_cost
from beamclip.preparation.anchors import anchor_set_key, plan_anchor_sets
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import (
    embedding_basis,
    embedding_parts,
    images_to_encode,
)
from beamclip.preparation.teacher_passes import (
    check_data_size,
    check_knn_neighbors,
    pass_key,
    required_views,
)
from beamclip.preparation.train_subset import candidate_ids, selection_views
from beamclip.stores import (
    Store,
    StoreDamaged,
    finished_shards,
    key_of,
    open_store,
    read_json,
    store_path,
)
from beamclip.teachers import Teacher, ViewSet, covering_store

# The smallest possible number; the real one is known once the images are packed.
_MIN_CLASSES = 2
# On two cores; see docs/benchmarks.md.
_DEMO_TEACHER_SECONDS = 60.0
# Typical number of k-means iterations.
_KMEANS_ITERATIONS = 30
# Approximate sizes of the files of a balance: arrays with an entry per image, and a contact sheet.
_BALANCE_BYTES_PER_IMAGE = 56
_CONTACT_SHEET_BYTES = 300_000


@dataclass(frozen=True)
class Parallelism:
    """Numbers of processes that do each kind of work at once."""

    packing: int = 1
    encoding: int = 1


@dataclass(frozen=True)
class PlannedStore:
    """One store that a search space needs. JSON values only.

    Attributes:
        store: kind of the store.
        what: description of its content.
        there: True if it exists and is intact.
        images: images that must still be processed; 0 if the store exists, the rest if a stopped
            command has begun it.
        bytes: size of the store, or of the part that is missing.
        seconds: expected time to build it, at the rate measured now; None if that can't be known
            yet.
    """

    store: str
    what: str
    there: bool
    images: int
    bytes: int
    seconds: float | None


def plan(
    experiments: Iterable[Experiment],
    context: PreparationContext,
    parallelism: Parallelism = Parallelism(),
) -> list[PlannedStore]:
    """List the stores that these experiments need, each once, in the order they are built.

    Args:
        experiments: all experiments of the search space.
        context: the surroundings.
        parallelism: divides the expected seconds.

    Raises:
        UserError: a source or teacher can't be opened, an existing store is damaged and not to be
            repaired, or an experiment needs more images than there are.
    """
    experiments = list(experiments)
    data_configs = {
        context.packed_path(experiment.data): experiment.data for experiment in experiments
    }
    images = [
        _plan_images(path, config, context, parallelism) for path, config in data_configs.items()
    ]
    towers = [tower for experiment in experiments for tower in experiment.teachers]
    demo_teacher = []
    if any(tower.model == "demo" for tower in towers):
        demo_teacher.append(_plan_demo_teacher(context))
    packed = {path: _open_packed(path, context) for path in data_configs}
    planned = [
        _plan_experiment(experiment, packed[context.packed_path(experiment.data)], context)
        for experiment in experiments
    ]
    for experiment in planned:
        _check(experiment, context)
    passes = merge_planned_passes(planned, context)
    recipes = {one.recipe for one in passes if one.views.recipe.random}
    embeddings = [
        _plan_embeddings(teacher_pass, context, parallelism, name_recipe=len(recipes) > 1)
        for teacher_pass in passes
    ]
    selection: dict[str, PlannedStore] = {}
    for experiment in planned:
        selection |= _plan_selection(experiment, context)
    anchors = _plan_anchors(experiments, context)
    return [*images, *demo_teacher, *embeddings, *selection.values(), *anchors]


def open_if_intact(path: Path, context: PreparationContext) -> Store | None:
    """Open a store, or return None if it is missing, or damaged and to be repaired.

    Raises:
        StoreDamaged: it is damaged and not to be repaired.
    """
    try:
        return open_store(path) if path.exists() else None
    except StoreDamaged:
        if not context.repair:
            raise
        return None


# Images and splits.


def _plan_images(
    path: Path, config: DataConfig, context: PreparationContext, parallelism: Parallelism
) -> PlannedStore:
    source = context.source(config)
    store = open_if_intact(path, context)
    count = sum(source.count(name) for name in SPLITS)
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    if store is not None:
        return PlannedStore("images", what, True, 0, store.bytes, 0.0)
    seconds, size = measure_image_cost(source, config)
    packed = sum(len(record["labels"]) + len(record["bad"]) for record in finished_shards(path))
    left = count - packed
    return PlannedStore(
        "images", what, False, left, int(left * size), left * seconds / parallelism.packing
    )


def _open_packed(path: Path, context: PreparationContext) -> PackedImages | None:
    """Open packed images well enough to split them; None if that is impossible for now.

    If only pixels are damaged and will be repaired, the splits are known all the same.
    """
    try:
        return open_packed(path) if path.exists() else None
    except StoreDamaged as damage:
        if not context.repair:
            raise
        if not damage.files:
            return None
        manifest = read_json(path / "manifest.json")
        needed = {"labels.npy", "groups.npy"}
        # The list of unreadable images is part of the key of the packed images.
        if manifest.get("bad"):
            needed.add("bad.csv")
        if needed.intersection(damage.files):
            return None
        return PackedImages(Store(path, manifest))


def _approximate_splits(config: DataConfig, source: Source) -> Splits:
    """Return splits of about the right sizes; the real ids are known after packing."""
    count = source.count("train")
    train = round(count * (1 - config.val_fraction))
    test = np.arange(count, count + source.count("test"))
    return Splits(
        np.arange(min(train, config.train_images or train)), np.arange(train, count), test
    )


# Experiments: what their students will be trained on, as far as that is known.


@dataclass(frozen=True)
class PlannedExperiment:
    """An experiment and the images that its students will be trained on, as far as known.

    Attributes:
        experiment: the settings.
        packed: None until the images are packed; the splits are approximate then.
        splits: sample ids of train, val and test.
        teacher: the first teacher, if the selection needs it and it exists.
        candidates: training images before the balance, as sample ids.
        train_ids: training images after the balance; until that is made, about as many ids.
        exact: True if `train_ids` are the real ids.
    """

    experiment: Experiment
    packed: PackedImages | None
    splits: Splits
    teacher: Teacher | None
    candidates: Ids
    train_ids: Ids
    exact: bool

    def canonical_parts(self, ids: Ids) -> dict[str, Any] | None:
        """Return what the canonical embeddings of these images depend on, or None until known."""
        if self.packed is None or self.teacher is None:
            return None
        return embedding_parts(self.teacher, self.packed, ViewSet.center(ids))


def _plan_experiment(
    experiment: Experiment, packed: PackedImages | None, context: PreparationContext
) -> PlannedExperiment:
    if packed is None:
        splits = _approximate_splits(experiment.data, context.source(experiment.data))
        candidates = splits.train
    else:
        splits = split(packed, experiment.data)
        candidates = candidate_ids(experiment, packed, splits)
    selects = experiment.balance.active or experiment.objective.clusters is not None
    teacher = None
    if selects and not _is_untrained_demo(experiment.teacher, context):
        teacher = context.teacher(experiment.teacher)
    planned = PlannedExperiment(
        experiment,
        packed,
        splits,
        teacher,
        candidates,
        train_ids=candidates,
        exact=packed is not None,
    )
    if not experiment.balance.active:
        return planned
    balance = _existing_balance(planned, context)
    if balance is not None:
        return replace(planned, train_ids=kept_ids(balance), exact=True)
    left = round(len(candidates) * (1 - (experiment.balance.remove or 0)))
    return replace(planned, train_ids=candidates[: max(1, left)], exact=False)


def _existing_balance(planned: PlannedExperiment, context: PreparationContext) -> Store | None:
    basis = planned.canonical_parts(planned.candidates)
    if basis is None:
        return None
    parts = balance_parts(basis, planned.experiment.balance)
    return open_if_intact(store_path(context.root, balance_store.KIND, parts), context)


def _check(planned: PlannedExperiment, context: PreparationContext) -> None:
    """Raise UserError if the experiment needs more images than there are.

    Until the images are packed, all images of the source count, though some may be unreadable.
    """
    experiment = planned.experiment
    if planned.packed is not None:
        check_data_size(experiment, planned.packed.classes, len(planned.candidates))
        check_knn_neighbors(experiment, len(planned.splits.train))
        return
    listed = context.source(experiment.data).count("train")
    most = min(listed, experiment.data.train_images or listed)
    check_data_size(experiment, _MIN_CLASSES, most)
    check_knn_neighbors(experiment, most)


# Teacher passes.


def _is_untrained_demo(tower: TowerConfig, context: PreparationContext) -> bool:
    """Return True for the demo's teacher until it is trained."""
    return tower.model == "demo" and open_if_intact(context.demo_teacher_path(), context) is None


def _plan_demo_teacher(context: PreparationContext) -> PlannedStore:
    store = open_if_intact(context.demo_teacher_path(), context)
    if store is not None:
        return PlannedStore("teacher", "the demo's own", True, 0, store.bytes, 0.0)
    return PlannedStore("teacher", "the demo's own", False, 0, 0, _DEMO_TEACHER_SECONDS)


@dataclass(frozen=True)
class PlannedPass:
    """A teacher pass; the views are approximate until the images are packed.

    Attributes:
        tower: the teacher.
        packed: None until the images are packed.
        views: the views to encode.
        recipe: name of the recipe, with its strength.
        exact: True if these are the real samples.
    """

    tower: TowerConfig
    packed: PackedImages | None
    views: ViewSet
    recipe: str
    exact: bool

    def describe(self, name_recipe: bool) -> str:
        """Return a description of the views, with the recipe's name if asked for."""
        if not self.views.recipe.random:
            return "the central view"
        plural = "s" if self.views.count > 1 else ""
        recipe = f" ({self.recipe})" if name_recipe else ""
        return f"{self.views.count} view{plural}{recipe}"

    def merge(self, other: "PlannedPass") -> "PlannedPass":
        """Return one pass that covers both.

        It is exact if both are, or if one that is exact holds all samples of the other.
        """
        views = self.views.union(other.views)
        exact = self.exact and other.exact
        for part in (self, other):
            if part.exact and len(part.views.ids) == len(views.ids):
                exact = True
        return replace(self, views=views, exact=exact)


def merge_planned_passes(
    planned: Iterable[PlannedExperiment], context: PreparationContext
) -> list[PlannedPass]:
    """Return the fewest passes that cover all experiments, as `run_teacher_passes` merges them."""
    merged: dict[str, PlannedPass] = {}
    for experiment in planned:
        images = context.packed_path(experiment.experiment.data).name
        for teacher_pass in _experiment_passes(experiment):
            key = pass_key(teacher_pass.tower, images, teacher_pass.views)
            if key in merged:
                merged[key] = merged[key].merge(teacher_pass)
            else:
                merged[key] = teacher_pass
    return list(merged.values())


def _experiment_passes(planned: PlannedExperiment) -> list[PlannedPass]:
    experiment = planned.experiment
    required = required_views(experiment, planned.splits, planned.train_ids)
    selection = selection_views(experiment, planned.candidates)
    if selection is not None:
        required = [(experiment.teacher, selection), *required]
    recipe = _recipe_name(experiment.student_views)
    passes = []
    for tower, views in required:
        # Canonical views are made of all candidates, which are known before the balance is.
        canonical = planned.packed is not None and not views.recipe.random
        passes.append(PlannedPass(tower, planned.packed, views, recipe, planned.exact or canonical))
    return passes


def _recipe_name(views: ViewsConfig) -> str:
    return views.recipe if views.strength == 1 else f"{views.recipe} × {views.strength:g}"


def _plan_embeddings(
    teacher_pass: PlannedPass,
    context: PreparationContext,
    parallelism: Parallelism,
    name_recipe: bool,
) -> PlannedStore:
    packed = teacher_pass.packed
    views = teacher_pass.views
    images = _count_images(len(views.ids), teacher_pass.exact)
    content = f"{teacher_pass.describe(name_recipe)} of {images}"
    if _is_untrained_demo(teacher_pass.tower, context):
        return PlannedStore("embeddings", f"demo, {content}", False, views.images, 0, None)
    teacher = context.teacher(teacher_pass.tower)
    what = f"{teacher.name}, {content}"
    left = views.images
    if packed is not None:
        store = covering_store(context.root, embedding_basis(teacher, packed, views), views)
        if store is None:
            parts = embedding_parts(teacher, packed, views)
            store = open_if_intact(store_path(context.root, "embeddings", parts), context)
        if store is not None:
            return PlannedStore("embeddings", what, True, 0, store.bytes, 0.0)
        left = images_to_encode(teacher, packed, views, context.root)
    size = left * teacher.width * 2
    seconds = left * context.throughput(teacher).seconds / parallelism.encoding
    return PlannedStore("embeddings", what, False, left, size, seconds)


def _count_images(count: int, exact: bool) -> str:
    about = "" if exact else "about "
    return f"{about}{count:,} images"


# Balance and clusters.


def _plan_selection(
    planned: PlannedExperiment, context: PreparationContext
) -> dict[str, PlannedStore]:
    """Return the stores of balance and clusters, by a key that is equal for equal stores."""
    stores: dict[str, PlannedStore] = {}
    if planned.experiment.balance.active:
        stores |= _plan_balance(planned, context)
    clusters = planned.experiment.objective.clusters
    if clusters is not None:
        stores |= _plan_clusters(planned, clusters, context)
    return stores


def _plan_balance(
    planned: PlannedExperiment, context: PreparationContext
) -> dict[str, PlannedStore]:
    config = planned.experiment.balance
    images = len(planned.candidates)
    basis = planned.canonical_parts(planned.candidates)
    parts = {"images": images} | config.model_dump()
    path = None
    if basis is not None:
        parts = balance_parts(basis, config)
        path = store_path(context.root, balance_store.KIND, parts)
    exact_search = config.search == "exact" or (
        config.search == "auto" and images <= balance_store.MAX_EXACT_IMAGES
    )
    seconds = None
    if planned.teacher is not None and exact_search:
        seconds = 2 * estimate_comparison_seconds(images, planned.teacher.width)
    how = (
        f"without {100 * (config.remove or 0):g} %"
        if config.threshold is None
        else f"joined below {config.threshold:g}"
    )
    missing = PlannedStore(
        store="balance",
        what=f"{_count_images(images, planned.packed is not None)} {how}",
        there=False,
        images=0,
        bytes=_BALANCE_BYTES_PER_IMAGE * images + _CONTACT_SHEET_BYTES,
        seconds=seconds,
    )
    return {f"balance {key_of(parts)}": _as_existing(missing, path, context)}


def _plan_clusters(
    planned: PlannedExperiment, count: int, context: PreparationContext
) -> dict[str, PlannedStore]:
    images = len(planned.train_ids)
    basis = planned.canonical_parts(planned.train_ids) if planned.exact else None
    parts: dict[str, Any] = {"images": images, "count": count}
    path = None
    if basis is not None:
        parts = clusters_parts(basis, count)
        path = store_path(context.root, cluster_store.KIND, parts)
    width = 0
    seconds = None
    if planned.teacher is not None:
        width = planned.teacher.width
        comparison_seconds = estimate_comparison_seconds(images, width)
        seconds = _KMEANS_ITERATIONS * count / images * comparison_seconds
    missing = PlannedStore(
        store="clusters",
        what=f"{count} of {_count_images(images, planned.exact)}",
        there=False,
        images=0,
        # Centers in fp32; ids and labels in int64.
        bytes=4 * count * width + 16 * images,
        seconds=seconds,
    )
    return {f"clusters {key_of(parts)}": _as_existing(missing, path, context)}


def _as_existing(
    missing: PlannedStore, path: Path | None, context: PreparationContext
) -> PlannedStore:
    """Return the plan of an existing store if there is one at this path, else `missing`."""
    store = None if path is None else open_if_intact(path, context)
    if store is None:
        return missing
    return replace(missing, there=True, bytes=store.bytes, seconds=0.0)


# Anchors.


def _plan_anchors(
    experiments: Iterable[Experiment], context: PreparationContext
) -> list[PlannedStore]:
    """Plan every anchor set once; experiments share them."""
    stores: dict[tuple[str, str], PlannedStore] = {}
    for experiment in experiments:
        for tower, anchor_set in plan_anchor_sets(experiment, context).all():
            if _is_untrained_demo(tower, context):
                key = ("demo", key_of({"prompts": anchor_set.prompts}))
                what = _describe_anchors("demo", anchor_set)
                stores[key] = PlannedStore("anchors", what, False, 0, 0, None)
            else:
                key = anchor_set_key(tower, anchor_set, context)
                stores[key] = _plan_anchor_set(context.teacher(tower), anchor_set, context)
    return list(stores.values())


def _plan_anchor_set(
    teacher: Teacher, anchor_set: AnchorSetPlan, context: PreparationContext
) -> PlannedStore:
    what = _describe_anchors(teacher.name, anchor_set)
    store = find_anchor_set(teacher, anchor_set, context.root, context.repair)
    if store is not None:
        return PlannedStore("anchors", what, True, 0, store.bytes, 0.0)
    size = len(anchor_set.senses) * teacher.width * 4
    seconds = len(anchor_set.texts) * context.seconds_per_text(teacher)
    return PlannedStore("anchors", what, False, 0, size, seconds)


def _describe_anchors(teacher: str, anchor_set: AnchorSetPlan) -> str:
    classes = len(anchor_set.senses)
    prompts = len(anchor_set.texts)
    return f"{teacher}, {anchor_set.prompt_set} for {classes:,} classes, {prompts:,} prompts"
