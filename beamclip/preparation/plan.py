"""Plan what a sweep needs before its trials can start, without building anything.

`plan` lists every store that a search space needs, each once. For the missing ones it estimates the
images to process, the bytes and the seconds.

Some numbers can't be known early. Sample ids and the class count are known once the images are
packed, and the embedding width of the demo's teacher once it is trained. Until then, the plan uses
approximate numbers and says "about", or leaves a number open.
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
from beamclip.data import PackedImages, Source, Splits, open_packed, split, val_note
from beamclip.data.base import SPLITS
from beamclip.data.gray import describe_gray
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

# Stands for the class count until the images are packed. It is the smallest count that is valid for
# every objective, so that no experiment is rejected too early.
_MIN_CLASSES = 2
# Time to train the demo's teacher on two cores; see docs/benchmarks.md.
_DEMO_TEACHER_SECONDS = 60.0
# Typical number of k-means iterations.
_KMEANS_ITERATIONS = 30
# Approximate sizes of the files of a balance: arrays with an entry per image, and a contact sheet.
_BALANCE_BYTES_PER_IMAGE = 56
_CONTACT_SHEET_BYTES = 300_000


@dataclass(frozen=True)
class Parallelism:
    """How many processes do each kind of work at the same time.

    Attributes:
        packing: processes that pack images.
        encoding: processes that run a teacher.
    """

    packing: int = 1
    encoding: int = 1


@dataclass(frozen=True)
class PlannedStore:
    """One store that a search space needs. JSON values only.

    Attributes:
        store: kind of the store: images, teacher, embeddings, balance, clusters or anchors.
        description: what the store holds.
        exists: True if it exists and is intact.
        images: number of images that must still be packed or encoded for it; 0 if it exists. Those
            in finished shards of a stopped build do not count.
        bytes: size of the store, or of its missing part.
        seconds: estimated time to build it, at a speed measured now; None if it can't be known yet.
        note: what the user should check, such as how a teacher's images are normalized; or empty.
    """

    store: str
    description: str
    exists: bool
    images: int
    bytes: int
    seconds: float | None
    note: str = ""

    @classmethod
    def existing(cls, kind: str, description: str, store: Store) -> "PlannedStore":
        """Return the entry of a store that needs no work."""
        return cls(kind, description, exists=True, images=0, bytes=store.bytes, seconds=0.0)

    @classmethod
    def missing(
        cls, kind: str, description: str, images: int, size: int, seconds: float | None
    ) -> "PlannedStore":
        """Return the entry of a store that must be built; `size` is in bytes."""
        return cls(kind, description, exists=False, images=images, bytes=size, seconds=seconds)


def plan(
    experiments: Iterable[Experiment],
    context: PreparationContext,
    parallelism: Parallelism = Parallelism(),
) -> list[PlannedStore]:
    """List the stores that these experiments need, each once. Nothing is built.

    Args:
        experiments: all experiments of the search space.
        context: opens data and teachers.
        parallelism: processes that share the work, by which the estimated seconds are divided.

    Returns:
        The stores, grouped by kind: images, teacher, embeddings, balance and clusters, anchors.

    Raises:
        UserError: a source or teacher can't be opened; an existing store is damaged and
            `context.repair` is off; or an experiment needs more images than there are.
    """
    experiments = list(experiments)

    # Packed images. Experiments that differ only in their split share them.
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

    # What students will be trained on decides which views are encoded.
    packed = {path: _open_packed(path, context) for path in data_configs}
    planned = [
        _plan_experiment(experiment, packed[context.packed_path(experiment.data)], context)
        for experiment in experiments
    ]
    for experiment in planned:
        _check(experiment, context)

    passes = merge_planned_passes(planned, context)
    random_recipes = {
        teacher_pass.recipe for teacher_pass in passes if teacher_pass.views.recipe.random
    }
    # With a single recipe its name would only repeat itself in every row of the printed plan.
    name_recipe = len(random_recipes) > 1
    embeddings = [
        _plan_embeddings(teacher_pass, context, parallelism, name_recipe) for teacher_pass in passes
    ]

    selection: dict[str, PlannedStore] = {}
    for experiment in planned:
        selection |= _plan_selection(experiment, context)
    anchors = _plan_anchors(experiments, context)
    return [*images, *demo_teacher, *embeddings, *selection.values(), *anchors]


def open_if_intact(path: Path, context: PreparationContext) -> Store | None:
    """Open a store, or return None if it must be built or repaired.

    Raises:
        StoreDamaged: the store is damaged and `context.repair` is off.
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
    description = f"{count:,} images, {config.image_size} px {config.encoding}"
    description += describe_gray(source, config)
    description = "; ".join([description, *source.notes])
    if store is not None:
        note = val_note(PackedImages(store), config)
        description += f"; {note}" if note else ""
        flat = store.manifest.get("flat", 0)
        description += f"; {flat:,} images are nearly one color (flat.csv)" if flat else ""
        return PlannedStore.existing("images", description, store)
    seconds_per_image, bytes_per_image = measure_image_cost(source, config)
    # A stopped build keeps its finished shards, which list readable and unreadable images.
    processed = 0
    for record in finished_shards(path):
        processed += len(record["labels"]) + len(record["bad"])
    left = count - processed
    seconds = left * seconds_per_image / parallelism.packing
    return PlannedStore.missing("images", description, left, int(left * bytes_per_image), seconds)


def _open_packed(path: Path, context: PreparationContext) -> PackedImages | None:
    """Open packed images so that they can be split, or return None if that is impossible for now.

    A store with damaged pixels that will be repaired can be split too, because the split does not
    depend on the pixels.
    """
    try:
        return open_packed(path) if path.exists() else None
    except StoreDamaged as damage:
        if not context.repair:
            raise
        # Without a list of files, the store as a whole is damaged.
        if not damage.files:
            return None
        manifest = read_json(path / "manifest.json")
        # `split` reads these two files.
        needed = {"labels.npy", "groups.npy"}
        # The list of unreadable images is part of the key of the packed images.
        if manifest.get("bad"):
            needed.add("bad.csv")
        if needed.intersection(damage.files):
            return None
        return PackedImages(Store(path, manifest))


def _approximate_splits(config: DataConfig, source: Source) -> Splits:
    """Return splits of about the right sizes. The real ids are known after packing."""
    count = source.count("train")
    val_start = round(count * (1 - config.val_fraction))
    train_count = min(val_start, config.train_images or val_start)
    train = np.arange(train_count)
    val = np.arange(val_start, count)
    test = np.arange(count, count + source.count("test"))
    return Splits(train, val, test)


# Experiments and the images that their students will be trained on.


@dataclass(frozen=True)
class PlannedExperiment:
    """An experiment and the images that its students will be trained on, as far as known.

    Attributes:
        experiment: the settings.
        packed: None until the images are packed; the splits are approximate then.
        splits: sample ids of train, val and test.
        teacher: the first teacher; None without balance and clusters, or if it is the demo's
            teacher and not trained yet.
        candidates: training images before the balance, as sample ids.
        train_ids: training images after the balance, as sample ids. Until the balance exists, they
            are any ids, about as many as it will keep.
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
        """Return the key parts of these images' canonical embeddings; None if not known yet."""
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
    needs_teacher = experiment.balance.active or experiment.objective.clusters is not None
    teacher = None
    if needs_teacher and not _is_untrained_demo(experiment.teacher, context):
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
    # With a threshold instead of a share, the number to be removed can't be known, so assume none.
    removed_share = experiment.balance.remove or 0
    kept = round(len(candidates) * (1 - removed_share))
    return replace(planned, train_ids=candidates[: max(1, kept)], exact=False)


def _existing_balance(planned: PlannedExperiment, context: PreparationContext) -> Store | None:
    basis = planned.canonical_parts(planned.candidates)
    if basis is None:
        return None
    parts = balance_parts(basis, planned.experiment.balance)
    return open_if_intact(store_path(context.root, balance_store.KIND, parts), context)


def _check(planned: PlannedExperiment, context: PreparationContext) -> None:
    """Raise UserError if the experiment needs more images than there are.

    Until the images are packed, all training images of the source count, though val takes some and
    others may be unreadable. So the check may pass too early, but never fails without reason.
    """
    experiment = planned.experiment
    if planned.packed is not None:
        check_data_size(experiment, planned.packed.classes, len(planned.candidates))
        check_knn_neighbors(experiment, len(planned.splits.train))
        return
    listed = context.source(experiment.data).count("train")
    max_images = min(listed, experiment.data.train_images or listed)
    check_data_size(experiment, _MIN_CLASSES, max_images)
    check_knn_neighbors(experiment, max_images)


# Teacher passes.


def _is_untrained_demo(tower: TowerConfig, context: PreparationContext) -> bool:
    """Return True if this is the demo's own teacher and it is not trained yet."""
    return tower.model == "demo" and open_if_intact(context.demo_teacher_path(), context) is None


def _plan_demo_teacher(context: PreparationContext) -> PlannedStore:
    store = open_if_intact(context.demo_teacher_path(), context)
    description = "the demo's own"
    if store is not None:
        return PlannedStore.existing("teacher", description, store)
    return PlannedStore.missing("teacher", description, 0, 0, _DEMO_TEACHER_SECONDS)


@dataclass(frozen=True)
class PlannedPass:
    """A teacher pass that is not run yet.

    Attributes:
        tower: the teacher.
        packed: the packed images; None until they are packed.
        views: the views to encode.
        recipe: name of the students' recipe, with its strength.
        exact: True if the sample ids of `views` are the real ones, False if only their number is
            about right.
    """

    tower: TowerConfig
    packed: PackedImages | None
    views: ViewSet
    recipe: str
    exact: bool

    def describe(self, name_recipe: bool) -> str:
        """Describe the views, with the name of a random recipe if `name_recipe`."""
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
            # A union that is no larger than a part has added no sample to it.
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
        # Canonical views are of all candidates or of val and test, which are known before the
        # balance is.
        canonical = planned.packed is not None and not views.recipe.random
        exact = planned.exact or canonical
        passes.append(PlannedPass(tower, planned.packed, views, recipe, exact))
    return passes


def _recipe_name(views: ViewsConfig) -> str:
    if views.strength == 1:
        return views.recipe
    return f"{views.recipe} × {views.strength:g}"


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
    # `context.teacher` would train the demo's teacher, so its width and speed are not known yet.
    if _is_untrained_demo(teacher_pass.tower, context):
        return PlannedStore.missing("embeddings", f"demo, {content}", views.images, 0, None)
    teacher = context.teacher(teacher_pass.tower)
    description = f"{teacher.name}, {content}"
    note = f"teacher {teacher.name}: {teacher.input_description}"
    left = views.images
    if packed is not None:
        store = covering_store(context.root, embedding_basis(teacher, packed, views), views)
        if store is None:
            parts = embedding_parts(teacher, packed, views)
            # `covering_store` skips damaged stores. Without `repair`, a damaged one raises here.
            store = open_if_intact(store_path(context.root, "embeddings", parts), context)
        if store is not None:
            return replace(PlannedStore.existing("embeddings", description, store), note=note)
        left = images_to_encode(teacher, packed, views, context.root)
    # Embeddings in fp16.
    size = left * teacher.width * 2
    seconds = left * context.throughput(teacher).seconds / parallelism.encoding
    return replace(PlannedStore.missing("embeddings", description, left, size, seconds), note=note)


def _count_images(count: int, exact: bool) -> str:
    about = "" if exact else "about "
    return f"{about}{count:,} images"


# Balance and clusters.


def _plan_selection(
    planned: PlannedExperiment, context: PreparationContext
) -> dict[str, PlannedStore]:
    """Plan the stores of balance and clusters.

    Returns:
        The stores by a key that is equal for equal stores, so that experiments share them.
    """
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
    # The real key is not known before the images are packed; this one only tells stores apart.
    parts = {"images": images} | config.model_dump()
    path = None
    if basis is not None:
        parts = balance_parts(basis, config)
        path = store_path(context.root, balance_store.KIND, parts)
    # The time of an approximate search is not estimated.
    is_small = images <= balance_store.MAX_EXACT_IMAGES
    is_exact = config.search == "exact" or (config.search == "auto" and is_small)
    seconds = None
    if planned.teacher is not None and is_exact:
        seconds = 2 * estimate_comparison_seconds(images, planned.teacher.width)
    if config.threshold is None:
        rule = f"without {100 * (config.remove or 0):g} %"
    else:
        rule = f"joined below {config.threshold:g}"
    missing = PlannedStore.missing(
        "balance",
        f"{_count_images(images, planned.packed is not None)} {rule}",
        images=0,
        size=_BALANCE_BYTES_PER_IMAGE * images + _CONTACT_SHEET_BYTES,
        seconds=seconds,
    )
    return {f"balance {key_of(parts)}": _as_existing(missing, path, context)}


def _plan_clusters(
    planned: PlannedExperiment, count: int, context: PreparationContext
) -> dict[str, PlannedStore]:
    images = len(planned.train_ids)
    basis = planned.canonical_parts(planned.train_ids) if planned.exact else None
    # Without exact ids the real key is not known; this one only tells stores apart.
    parts: dict[str, Any] = {"images": images, "count": count}
    path = None
    if basis is not None:
        parts = clusters_parts(basis, count)
        path = store_path(context.root, cluster_store.KIND, parts)
    width = 0
    seconds = None
    if planned.teacher is not None:
        width = planned.teacher.width
        # An iteration compares every image with `count` centers instead of all images.
        all_pairs_seconds = estimate_comparison_seconds(images, width)
        seconds = _KMEANS_ITERATIONS * count / images * all_pairs_seconds
    missing = PlannedStore.missing(
        "clusters",
        f"{count} of {_count_images(images, planned.exact)}",
        images=0,
        # Centers in fp32; ids and labels in int64.
        size=4 * count * width + 16 * images,
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
    return PlannedStore.existing(missing.store, missing.description, store)


# Anchors.


def _plan_anchors(
    experiments: Iterable[Experiment], context: PreparationContext
) -> list[PlannedStore]:
    """Plan the anchor sets of all experiments, each once."""
    stores: dict[tuple[str, str], PlannedStore] = {}
    for experiment in experiments:
        for tower, anchor_set in plan_anchor_sets(experiment, context).all():
            if _is_untrained_demo(tower, context):
                # The real key needs the teacher's fingerprint.
                key = ("demo", key_of({"prompts": anchor_set.prompts}))
                description = _describe_anchors("demo", anchor_set)
                stores[key] = PlannedStore.missing("anchors", description, 0, 0, None)
            else:
                key = anchor_set_key(tower, anchor_set, context)
                stores[key] = _plan_anchor_set(context.teacher(tower), anchor_set, context)
    return list(stores.values())


def _plan_anchor_set(
    teacher: Teacher, anchor_set: AnchorSetPlan, context: PreparationContext
) -> PlannedStore:
    description = _describe_anchors(teacher.name, anchor_set)
    store = find_anchor_set(teacher, anchor_set, context.root, context.repair)
    if store is not None:
        return PlannedStore.existing("anchors", description, store)
    # Anchors in fp32.
    size = len(anchor_set.senses) * teacher.width * 4
    seconds = len(anchor_set.texts) * context.seconds_per_text(teacher)
    return PlannedStore.missing("anchors", description, 0, size, seconds)


def _describe_anchors(teacher: str, anchor_set: AnchorSetPlan) -> str:
    classes = len(anchor_set.senses)
    prompts = len(anchor_set.texts)
    return f"{teacher}, {anchor_set.prompt_set} for {classes:,} classes, {prompts:,} prompts"
