"""Run the teacher passes of many experiments, so that no view of an image is encoded twice.

There are two rounds. The first encodes the canonical views that decide which images students are
trained on (balance, clusters); the second encodes all the rest. Passes that differ only in samples
and number of views are merged into one.
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
    """One pass of a teacher over the views of packed images."""

    tower: TowerConfig
    packed: PackedImages
    views: ViewSet

    @property
    def key(self) -> str:
        """Return the `pass_key`."""
        return pass_key(self.tower, self.packed.key, self.views)


def pass_key(tower: TowerConfig, images: str, views: ViewSet) -> str:
    """Return a key that is equal for passes that can be merged into one.

    Such passes differ only in samples, number of views and batch size, which change no embedding.

    Args:
        tower: the teacher.
        images: key of the packed images.
        views: the views to encode.
    """
    same = tower.model_dump(mode="json", include=set(TowerConfig.model_fields) - {"batch_size"})
    return key_of({"tower": same, "images": images, **views.render_parts()})


def training_views(experiment: Experiment, train_ids: Ids) -> ViewSet | None:
    """Return the views that teachers encode for training.

    Args:
        experiment: the settings.
        train_ids: the samples that students are trained on.

    Returns:
        None if no teacher is needed, or if it runs during training (`views.teacher=live`).
    """
    views = experiment.student_views
    if views.teacher == "live" or not experiment.objective.requirements.embeddings:
        return None
    if views.teacher == "center":
        return ViewSet.center(train_ids)
    recipe = views.resolve()
    return ViewSet(train_ids, recipe, views.stored if recipe.random else 1, views.seed)


def held_out_views(splits: Splits) -> ViewSet:
    """Return the views of val and test, for the teacher's own zero-shot accuracy."""
    return ViewSet.center(np.sort(np.concatenate([splits.val, splits.test])))


def required_views(
    experiment: Experiment, splits: Splits, train_ids: Ids
) -> list[tuple[TowerConfig, ViewSet]]:
    """Return the views that each teacher must have encoded before an experiment can start.

    These are the training views for every teacher of the objective, and val and test for the first
    teacher.
    """
    required = []
    views = training_views(experiment, train_ids)
    if views is not None:
        required += [(tower, views) for tower in experiment.teachers]
    return [*required, (experiment.teacher, held_out_views(splits))]


def required_passes(
    experiment: Experiment, packed: PackedImages, splits: Splits, train_ids: Ids
) -> list[TeacherPass]:
    """Return all passes that an experiment needs for training and probing."""
    required = required_views(experiment, splits, train_ids)
    return [TeacherPass(tower, packed, views) for tower, views in required]


def selection_pass(
    experiment: Experiment, packed: PackedImages, splits: Splits
) -> TeacherPass | None:
    """Return the first teacher's pass that the selection of training images needs, if any."""
    views = selection_views(experiment, candidate_ids(experiment, packed, splits))
    return None if views is None else TeacherPass(experiment.teacher, packed, views)


def merge_passes(passes: Iterable[TeacherPass]) -> dict[str, TeacherPass]:
    """Merge passes with the same key. Returns the fewest passes that cover all, by key."""
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
        passes: the passes, by key.
        stores: store of each pass and how many images were encoded for it now, by key.
    """

    data: dict[str, tuple[PackedImages, Splits]]
    subsets: dict[str, TrainSubset] = field(default_factory=dict)
    passes: dict[str, TeacherPass] = field(default_factory=dict)
    stores: dict[str, tuple[Embeddings, int]] = field(default_factory=dict)

    def encoded_for(self, experiment: Experiment, name: str) -> int:
        """Return how many images were encoded now for this experiment's passes."""
        packed, splits = self.data[name]
        passes = required_passes(experiment, packed, splits, self.subsets[name].ids)
        selection = selection_pass(experiment, packed, splits)
        if selection is not None:
            passes.append(selection)
        keys = {teacher_pass.key for teacher_pass in passes}
        return sum(self.stores[key][1] for key in keys)

    @property
    def encoded(self) -> int:
        """Return how many images were encoded now, for all experiments together."""
        return sum(count for _, count in self.stores.values())

    def store_of(self, teacher_pass: TeacherPass) -> Embeddings:
        """Return the store that holds the views of this pass."""
        store, _ = self.stores[teacher_pass.key]
        return store


def run_teacher_passes(
    experiments: Mapping[str, Experiment], context: PreparationContext
) -> PassResults:
    """Pack images, select training images and encode all views that these experiments need.

    Args:
        experiments: by name.
        context: the surroundings.

    Raises:
        UserError: data or teacher are not as configured, or there are too few images.
    """
    results = PassResults(
        {name: _pack_and_split(experiment, context) for name, experiment in experiments.items()}
    )
    _encode(_first_round(experiments, results), results, context)
    required = []
    for name, experiment in experiments.items():
        packed, splits = results.data[name]
        subset = _select(experiment, packed, splits, results, context)
        results.subsets[name] = subset
        required += required_passes(experiment, packed, splits, subset.ids)
    _encode(merge_passes(required), results, context)
    return results


def balance_train_images(experiment: Experiment, context: PreparationContext) -> Store:
    """Balance the training images of one experiment; the first teacher encodes them first.

    Raises:
        UserError: data or teacher are not as configured; or as `beamclip.balance.balance`.
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

    A pass of the second round with the same key is merged into it, so that one store is built
    instead of two. The second round may need any candidate, since nothing is selected yet.
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
    keys = {teacher_pass.key for teacher_pass in first}
    return merge_passes(
        [*first, *(teacher_pass for teacher_pass in second if teacher_pass.key in keys)]
    )


def _encode(
    passes: Mapping[str, TeacherPass], results: PassResults, context: PreparationContext
) -> None:
    """Run the passes that have no store yet."""
    for key, teacher_pass in passes.items():
        if key in results.stores:
            continue
        results.passes[key] = teacher_pass
        results.stores[key] = embed(
            context.teacher(teacher_pass.tower),
            teacher_pass.packed,
            teacher_pass.views,
            context.root,
            context.progress,
            context.run,
            repair=context.repair,
            measure=context.throughput,
        )


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
    """Raise UserError if `probe.knn_k` is more than this number of train images."""
    check_k(experiment.probe.knn_k, min(images, experiment.probe.train_images or images))


def check_data_size(experiment: Experiment, classes: int, images: int, after: str = "") -> None:
    """Check the settings that depend on the size of the data.

    Args:
        experiment: the settings.
        classes: number of classes of the data.
        images: number of images that students would be trained on.
        after: why there are so few; follows "training images" in the message.

    Raises:
        UserError: the batch, a queue or the number of clusters is larger than the training set, or
            an objective that needs several classes would get one.
    """
    batch_size = experiment.optimizer.batch_size
    if batch_size > images:
        raise UserError(
            f"optimizer.batch_size {batch_size} is more than the {images} training images{after}; "
            "lower it"
        )
    if experiment.objective.clusters is not None:
        check_cluster_count(experiment.objective.clusters, images)
    # An objective checks the data when it is built. On the meta device nothing is computed.
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
                centres=placeholder,
            ),
        )
