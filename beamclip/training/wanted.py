"""Which views of which images teachers must have seen before an experiment can start."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from beamclip.config import Experiment, TowerConfig
from beamclip.data import PackedImages, Splits
from beamclip.data.packed import Ids
from beamclip.stores import key_of
from beamclip.teachers import ViewSet


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
    return ViewSet(trained, views.resolve(), views.stored if views.resolve().random else 1, views.seed)


def held_out_views(splits: Splits) -> ViewSet:
    """The views that the teacher's own zero-shot accuracy is measured on."""
    return ViewSet.center(np.sort(np.concatenate([splits.val, splits.test])))


def wanted_by(experiment: Experiment, packed: PackedImages, splits: Splits, trained: Ids) -> list[Wanted]:
    """All passes an experiment needs to train and probe. See `towers_and_views`."""
    return [Wanted(tower, packed, views) for tower, views in towers_and_views(experiment, splits, trained)]


def towers_and_views(experiment: Experiment, splits: Splits, trained: Ids) -> list[tuple[TowerConfig, ViewSet]]:
    """Who must have seen what: every teacher that is listened to the training views, the first one val and test."""
    views, held_out = training_views(experiment, trained), (experiment.teacher, held_out_views(splits))
    return [held_out] if views is None else [(tower, views) for tower in experiment.teachers] + [held_out]


def joined(passes: Iterable[Wanted]) -> dict[str, Wanted]:
    """The fewest passes that cover all of these, by group: no view of a sample is encoded twice."""
    groups: dict[str, Wanted] = {}
    for one in passes:
        known = groups.get(one.group)
        groups[one.group] = one if known is None else Wanted(one.tower, one.packed, known.views.joined(one.views))
    return groups
