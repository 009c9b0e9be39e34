"""Teacher passes of many experiments, in two rounds: what decides which images are trained on, then all the rest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from beamclip.balance import check_count
from beamclip.config import Experiment, TowerConfig, UserError
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
from beamclip.evaluation import check_k
from beamclip.objectives import LossContext, build_objective
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import embed
from beamclip.preparation.train_subset import Chosen, balance_of, canonical_view, choose, offered
from beamclip.stores import Store, key_of
from beamclip.teachers import Embeddings, ViewSet

# Which views of which images teachers must have seen before an experiment can start.


@dataclass(frozen=True)
class Wanted:
    """One pass of one teacher over one set of views."""

    tower: TowerConfig
    packed: PackedImages
    views: ViewSet

    @property
    def group(self) -> str:
        """See `group_of`."""
        return group_of(self.tower, self.packed.key, self.views)


def group_of(tower: TowerConfig, images: str, views: ViewSet) -> str:
    """Passes of the same group can be one: they differ in samples, number of views and batch size, which change no embedding.

    Args:
        images: what tells packed images from others.
    """
    same = tower.model_dump(mode="json", include=set(TowerConfig.model_fields) - {"batch_size"})
    return key_of({"tower": same, "images": images, **views.drawn()})


def training_views(experiment: Experiment, trained: Ids) -> ViewSet | None:
    """The views that students will be taught from, None where no teacher teaches or it runs inside training.

    Args:
        trained: the samples that students are trained on.
    """
    views = experiment.shown
    if views.teacher == "live" or not experiment.objective.needs.embeddings:
        return None
    if views.teacher == "center":
        return ViewSet.center(trained)
    return ViewSet(
        trained, views.resolve(), views.stored if views.resolve().random else 1, views.seed
    )


def held_out_views(splits: Splits) -> ViewSet:
    """The views that the teacher's own zero-shot accuracy is measured on."""
    return ViewSet.center(np.sort(np.concatenate([splits.val, splits.test])))


def wanted_by(
    experiment: Experiment, packed: PackedImages, splits: Splits, trained: Ids
) -> list[Wanted]:
    """All passes an experiment needs to train and probe. See `towers_and_views`."""
    return [
        Wanted(tower, packed, views)
        for tower, views in towers_and_views(experiment, splits, trained)
    ]


def towers_and_views(
    experiment: Experiment, splits: Splits, trained: Ids
) -> list[tuple[TowerConfig, ViewSet]]:
    """Who must have seen what: every teacher that is listened to the training views, the first one val and test."""
    views, held_out = (
        training_views(experiment, trained),
        (experiment.teacher, held_out_views(splits)),
    )
    return (
        [held_out]
        if views is None
        else [(tower, views) for tower in experiment.teachers] + [held_out]
    )


def joined(passes: Iterable[Wanted]) -> dict[str, Wanted]:
    """The fewest passes that cover all of these, by group: no view of a sample is encoded twice."""
    groups: dict[str, Wanted] = {}
    for one in passes:
        known = groups.get(one.group)
        groups[one.group] = (
            one if known is None else Wanted(one.tower, one.packed, known.views.joined(one.views))
        )
    return groups


@dataclass
class Passes:
    """What was made for experiments, by their names and by groups of passes.

    Attributes:
        opened: name -> its images.
        chosen: name -> what its students learn from.
        wanted: group -> the pass.
        made: group -> its store, and how many images were encoded for it now.
    """

    opened: dict[str, tuple[PackedImages, Splits]]
    chosen: dict[str, Chosen] = field(default_factory=dict)
    wanted: dict[str, Wanted] = field(default_factory=dict)
    made: dict[str, tuple[Embeddings, int]] = field(default_factory=dict)

    def encoded_for(self, experiment: Experiment, name: str) -> int:
        """How many images were encoded now for what this experiment needs."""
        packed, splits = self.opened[name]
        needed = canonical_pass(experiment, packed, splits) + wanted_by(
            experiment, packed, splits, self.chosen[name].trained
        )
        return sum(self.made[group][1] for group in {one.group for one in needed})

    @property
    def encoded(self) -> int:
        """How many images were encoded now, for all experiments together."""
        return sum(count for _, count in self.made.values())

    def store_of(self, one: Wanted) -> Embeddings:
        """The store that holds the views of this pass."""
        return self.made[one.group][0]


def make_passes(experiments: Mapping[str, Experiment], workshop: PreparationContext) -> Passes:
    """Pack, choose and embed for many experiments: no teacher sees a view of an image twice.

    Raises:
        UserError: data or teacher are not what an experiment says, or leave too few images for what it asks.
    """
    passes = Passes(
        {name: _packed_and_split(experiment, workshop) for name, experiment in experiments.items()}
    )
    _encode(_early(experiments, passes), passes, workshop)
    for name, experiment in experiments.items():
        passes.chosen[name] = _choose(experiment, *passes.opened[name], passes, workshop)
    rest = joined(
        one
        for name, e in experiments.items()
        for one in wanted_by(e, *passes.opened[name], passes.chosen[name].trained)
    )
    _encode(rest, passes, workshop)
    return passes


def make_balance(experiment: Experiment, workshop: PreparationContext) -> Store:
    """Balance the training images of one experiment, after the one pass over canonical views that this takes.

    Raises:
        UserError: data or teacher are not what the experiment says, or as `beamclip.balance.balance`.
    """
    packed = workshop.packed(experiment.data)
    ids = offered(experiment, packed, split(packed, experiment.data))
    one, passes = Wanted(experiment.teacher, packed, ViewSet.center(ids)), Passes({})
    _encode({one.group: one}, passes, workshop)
    return balance_of(experiment, packed, ids, passes.store_of(one), workshop)


def canonical_pass(experiment: Experiment, packed: PackedImages, splits: Splits) -> list[Wanted]:
    """What choosing asks of the first teacher: one pass or none."""
    views = canonical_view(experiment, offered(experiment, packed, splits))
    return [] if views is None else [Wanted(experiment.teacher, packed, views)]


def _packed_and_split(
    experiment: Experiment, workshop: PreparationContext
) -> tuple[PackedImages, Splits]:
    packed = workshop.packed(experiment.data)
    splits = split(packed, experiment.data)
    check_against_data(experiment, packed.classes, len(offered(experiment, packed, splits)))
    check_neighbours(experiment, len(splits.train))
    return packed, splits


def _early(experiments: Mapping[str, Experiment], passes: Passes) -> dict[str, Wanted]:
    """The passes that choosing needs, joined with all that may later be asked of their groups, so that these are made once."""
    canonical, others = list[Wanted](), list[Wanted]()
    for name, experiment in experiments.items():
        packed, splits = passes.opened[name]
        canonical += canonical_pass(experiment, packed, splits)
        others += wanted_by(experiment, packed, splits, offered(experiment, packed, splits))
    groups = {one.group for one in canonical}
    return joined([*canonical, *(one for one in others if one.group in groups)])


def _encode(wanted: Mapping[str, Wanted], passes: Passes, workshop: PreparationContext) -> None:
    w = workshop
    for group, one in wanted.items():
        if group not in passes.made:
            passes.wanted[group] = one
            passes.made[group] = embed(
                w.teacher(one.tower),
                one.packed,
                one.views,
                w.root,
                w.progress,
                w.run,
                w.repair,
                w.pace,
            )


def _choose(
    experiment: Experiment,
    packed: PackedImages,
    splits: Splits,
    passes: Passes,
    workshop: PreparationContext,
) -> Chosen:
    canonical = canonical_pass(experiment, packed, splits)
    stored = passes.store_of(canonical[0]) if canonical else None
    chosen = choose(experiment, packed, offered(experiment, packed, splits), stored, workshop)
    check_against_data(
        experiment,
        packed.classes,
        len(chosen.trained),
        " that balance leaves" if experiment.balance.active else "",
    )
    return chosen


def check_neighbours(experiment: Experiment, images: int) -> None:
    """See that the probe's neighbours are among so many train images.

    Raises:
        UserError: they are not.
    """
    check_k(experiment.probe.knn_k, min(images, experiment.probe.train_images or images))


def check_against_data(experiment: Experiment, classes: int, images: int, which: str = "") -> None:
    """What can only be checked once the data is known.

    Args:
        classes: of the data.
        images: how many students would be trained on.
        which: says why they are so few.

    Raises:
        UserError: a batch, a queue or a number of clusters larger than the training set, or one class where two are told apart.
    """
    batch = experiment.optimiser.batch_size
    if batch > images:
        raise UserError(
            f"optimiser.batch_size {batch} is more than the {images} training images{which}; lower it"
        )
    if experiment.objective.needs.clusters:
        check_count(experiment.objective.clip_cid.clusters, images)
    with torch.device(
        "meta"
    ):  # what an objective has to say of the data, it says as it is built; nothing is computed
        nothing = torch.empty(2, 8)
        build_objective(
            experiment.objective, LossContext(8, 8, images, classes, [nothing], [None], nothing)
        )
