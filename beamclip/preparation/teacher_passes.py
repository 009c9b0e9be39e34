"""Run the teacher passes of many experiments, so that no view of an image is encoded twice.

There are two rounds:

1. Encode the canonical views that balance and clusters need. They decide which images students are
   trained on.
2. Encode everything else, of these images only.

Within a round, passes that differ only in samples and number of views are merged into one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from beamclip.balance import check_cluster_count
from beamclip.config import Experiment, TowerConfig, UserError
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
from beamclip.evaluation import check_k
from beamclip.objectives import LossContext, build_objective
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import embed
from beamclip.preparation.train_subset import (
    TrainSubset,
    balance_store,
    candidate_ids,
    select_train_subset,
    selection_views,
)
from beamclip.stores import Store, key_of
from beamclip.teachers import Embeddings, ViewSet


@dataclass(frozen=True)
class TeacherPass:
    """One pass of a teacher over views of packed images.

    Attributes:
        tower: the teacher.
        packed: the packed images.
        views: the views to encode.
    """

    tower: TowerConfig
    packed: PackedImages
    views: ViewSet

    @property
    def key(self) -> str:
        """Return the `pass_key`, which is equal for passes that can be merged."""
        return pass_key(self.tower, self.packed.key, self.views)


def pass_key(tower: TowerConfig, images: str, views: ViewSet) -> str:
    """Return a key that is equal for passes that can be merged into one.

    Such passes differ only in samples, number of views and batch size. None of these changes the
    embedding of a view.

    Args:
        tower: the teacher.
        images: key of the packed images.
        views: the views to encode.
    """
    settings = set(TowerConfig.model_fields) - {"batch_size"}
    tower_parts = tower.model_dump(mode="json", include=settings)
    return key_of({"tower": tower_parts, "images": images, **views.render_parts()})


def training_views(experiment: Experiment, train_ids: Ids) -> ViewSet | None:
    """Return the views that teachers encode for training.

    Args:
        experiment: the settings.
        train_ids: ids of the samples that students are trained on, [N].

    Returns:
        The views, or None if the objective needs no teacher embeddings or the teacher runs during
        training (`views.teacher=live`).
    """
    views = experiment.student_views
    if views.teacher == "live" or not experiment.objective.requirements.embeddings:
        return None
    if views.teacher == "center":
        return ViewSet.center(train_ids)
    recipe = views.resolve()
    # All views of a sample are the same if the recipe is not random, so one is enough.
    count = views.stored if recipe.random else 1
    return ViewSet(train_ids, recipe, count, views.seed)


def held_out_views(splits: Splits) -> ViewSet:
    """Return the canonical views of val and test, for the teacher's own zero-shot accuracy."""
    ids = np.concatenate([splits.val, splits.test])
    return ViewSet.center(np.sort(ids))


def required_views(
    experiment: Experiment, splits: Splits, train_ids: Ids
) -> list[tuple[TowerConfig, ViewSet]]:
    """Return the views that must be encoded before an experiment can start, with their teachers.

    Every teacher encodes the training views. The first one also encodes val and test.
    """
    required = []
    views = training_views(experiment, train_ids)
    if views is not None:
        required += [(tower, views) for tower in experiment.teachers]
    return [*required, (experiment.teacher, held_out_views(splits))]


def required_passes(
    experiment: Experiment, packed: PackedImages, splits: Splits, train_ids: Ids
) -> list[TeacherPass]:
    """Return the `required_views` of an experiment as passes over its packed images."""
    required = required_views(experiment, splits, train_ids)
    return [TeacherPass(tower, packed, views) for tower, views in required]


def selection_pass(
    experiment: Experiment, packed: PackedImages, splits: Splits
) -> TeacherPass | None:
    """Return the pass that balance and clusters need, or None without either."""
    views = selection_views(experiment, candidate_ids(experiment, packed, splits))
    if views is None:
        return None
    return TeacherPass(experiment.teacher, packed, views)


def merge_passes(passes: Iterable[TeacherPass]) -> dict[str, TeacherPass]:
    """Merge passes with the same key, and return the merged passes by key."""
    merged: dict[str, TeacherPass] = {}
    for teacher_pass in passes:
        key = teacher_pass.key
        if key in merged:
            views = merged[key].views.union(teacher_pass.views)
            teacher_pass = TeacherPass(teacher_pass.tower, teacher_pass.packed, views)
        merged[key] = teacher_pass
    return merged


@dataclass
class PassResults:
    """The teacher passes of many experiments and their results.

    Attributes:
        data: packed images and splits, by name of the experiment.
        subsets: the images that students are trained on, by name of the experiment.
        passes: the passes, by `pass_key`.
        stores: for each `pass_key`, the store and the number of images that were encoded for it in
            this call.
        encoded_before: for each `pass_key`, the number of its images that were encoded in this call
            before the passes.
    """

    data: dict[str, tuple[PackedImages, Splits]]
    subsets: dict[str, TrainSubset] = field(default_factory=dict)
    passes: dict[str, TeacherPass] = field(default_factory=dict)
    stores: dict[str, tuple[Embeddings, int]] = field(default_factory=dict)
    encoded_before: Mapping[str, int] = field(default_factory=dict)

    def encoded_for(self, experiment: Experiment, name: str) -> int:
        """Return how many images were encoded in this call for an experiment's passes.

        A pass that several experiments share counts in full for each of them.
        """
        packed, splits = self.data[name]
        passes = required_passes(experiment, packed, splits, self.subsets[name].ids)
        selection = selection_pass(experiment, packed, splits)
        if selection is not None:
            passes.append(selection)
        # A set, since several of these passes may have been merged into one.
        keys = {teacher_pass.key for teacher_pass in passes}
        return sum(self.stores[key][1] for key in keys)

    @property
    def encoded(self) -> int:
        """Return how many images were encoded in this call, for all experiments together."""
        return sum(count for _, count in self.stores.values())

    def store_of(self, teacher_pass: TeacherPass) -> Embeddings:
        """Return the store that holds the views of this pass."""
        store, _ = self.stores[teacher_pass.key]
        return store


def pack_images(
    experiments: Mapping[str, Experiment], context: PreparationContext
) -> dict[str, tuple[PackedImages, Splits]]:
    """Pack the images of experiments that are not packed yet, and split them.

    Args:
        experiments: experiments by name.
        context: opens data.

    Returns:
        Packed images and splits, by name of the experiment.

    Raises:
        UserError: the data can't be used as configured, or there are too few images.
    """
    return {name: _pack_and_split(experiment, context) for name, experiment in experiments.items()}


def run_teacher_passes(
    experiments: Mapping[str, Experiment],
    data: dict[str, tuple[PackedImages, Splits]],
    context: PreparationContext,
    encoded_before: Mapping[str, int] | None = None,
) -> PassResults:
    """Select training images and encode all views that these experiments need.

    Args:
        experiments: experiments by name.
        data: packed images and splits, by name of the experiment; see `pack_images`.
        context: opens teachers.
        encoded_before: images of these passes that were encoded in this call before, by `pass_key`.

    Raises:
        UserError: the teacher can't be used as configured, or there are too few images.
    """
    results = PassResults(data, encoded_before=encoded_before or {})

    # First round: what the selection of training images needs.
    _encode(_first_round(experiments, results), results, context)

    # Second round: all other views, of the selected images.
    required = []
    for name, experiment in experiments.items():
        packed, splits = results.data[name]
        subset = _select(experiment, packed, splits, results, context)
        results.subsets[name] = subset
        required += required_passes(experiment, packed, splits, subset.ids)
    _encode(merge_passes(required), results, context)
    return results


def balance_train_images(experiment: Experiment, context: PreparationContext) -> Store:
    """Balance the training images of one experiment and return the store of the balance.

    The first teacher encodes the images if they are not stored yet.

    Raises:
        UserError: data or teacher can't be used as configured; or as `beamclip.balance.balance`.
    """
    packed = context.packed(experiment.data)
    ids = candidate_ids(experiment, packed, split(packed, experiment.data))
    canonical = TeacherPass(experiment.teacher, packed, ViewSet.center(ids))
    results = PassResults({})
    _encode({canonical.key: canonical}, results, context)
    return balance_store(experiment, packed, ids, results.store_of(canonical), context)


def _pack_and_split(
    experiment: Experiment, context: PreparationContext
) -> tuple[PackedImages, Splits]:
    packed = context.packed(experiment.data)
    splits = split(packed, experiment.data)
    check_data_size(experiment, packed.classes, len(candidate_ids(experiment, packed, splits)))
    check_knn_neighbors(experiment, len(splits.train))
    return packed, splits


def _first_round(
    experiments: Mapping[str, Experiment], results: PassResults
) -> dict[str, TeacherPass]:
    """Return the passes that the selection of training images needs, by key.

    A pass that another experiment needs in the second round may have the same key. It is merged
    into the first round, so that one store is built instead of two. Nothing is selected yet, so
    such a pass takes all candidates.
    """
    first: list[TeacherPass] = []
    second: list[TeacherPass] = []
    for name, experiment in experiments.items():
        packed, splits = results.data[name]
        selection = selection_pass(experiment, packed, splits)
        if selection is not None:
            first.append(selection)
        candidates = candidate_ids(experiment, packed, splits)
        second += required_passes(experiment, packed, splits, candidates)
    first_keys = {teacher_pass.key for teacher_pass in first}
    shared = [teacher_pass for teacher_pass in second if teacher_pass.key in first_keys]
    return merge_passes([*first, *shared])


def _encode(
    passes: Mapping[str, TeacherPass], results: PassResults, context: PreparationContext
) -> None:
    """Run these passes and add their stores to `results`."""
    for key, teacher_pass in passes.items():
        # The first round has already encoded all candidates for this key.
        if key in results.stores:
            continue
        results.passes[key] = teacher_pass
        store, encoded = embed(
            context.teacher(teacher_pass.tower),
            teacher_pass.packed,
            teacher_pass.views,
            context.root,
            context.progress,
            context.run,
            repair=context.repair,
            measure=context.throughput,
        )
        results.stores[key] = (store, encoded + results.encoded_before.get(key, 0))


def _select(
    experiment: Experiment,
    packed: PackedImages,
    splits: Splits,
    results: PassResults,
    context: PreparationContext,
) -> TrainSubset:
    selection = selection_pass(experiment, packed, splits)
    canonical = None if selection is None else results.store_of(selection)
    candidates = candidate_ids(experiment, packed, splits)
    subset = select_train_subset(experiment, packed, candidates, canonical, context)
    after = " that balance leaves" if experiment.balance.active else ""
    check_data_size(experiment, packed.classes, len(subset.ids), after)
    return subset


def check_knn_neighbors(experiment: Experiment, images: int) -> None:
    """Raise UserError if `probe.knn_k` is more than the number of images that probes train on.

    Args:
        experiment: the settings.
        images: number of train images. `probe.train_images` may limit it further.
    """
    probe_images = min(images, experiment.probe.train_images or images)
    check_k(experiment.probe.knn_k, probe_images)


def check_data_size(experiment: Experiment, classes: int, images: int, after: str = "") -> None:
    """Check the settings that depend on the size of the data.

    Args:
        experiment: the settings.
        classes: number of classes of the data.
        images: number of images that students would be trained on.
        after: reason why there are so few. It follows "training images" in the message.

    Raises:
        UserError: the batch, a queue or the number of clusters is larger than the training set, or
            the objective needs more classes than there are.
    """
    batch_size = experiment.optimizer.batch_size
    if batch_size > images:
        raise UserError(
            f"optimizer.batch_size {batch_size} is more than the {images} training images{after}; "
            "lower it"
        )
    if experiment.objective.clusters is not None:
        check_cluster_count(experiment.objective.clusters, images)
    # An objective checks the data when it is built. The meta device allocates and computes nothing,
    # so the values and widths of the placeholders don't matter.
    with torch.device("meta"):
        placeholder = torch.empty(2, 8)
        build_objective(
            experiment.objective,
            LossContext(
                features=8,
                width=8,
                train_images=images,
                classes=classes,
                anchors=[placeholder],
                temperatures=[None],
                centers=placeholder,
            ),
        )
