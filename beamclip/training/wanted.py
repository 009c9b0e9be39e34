"""Which views of which images teachers must have seen before an experiment can start."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from beamclip.config import Experiment, TowerConfig
from beamclip.data import PackedImages, Splits
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
        """Passes of the same group can be one: they differ in samples, number of views and batch size, which change no embedding."""
        tower = self.tower.model_dump(mode="json", include=set(TowerConfig.model_fields) - {"batch_size"})
        return key_of({"tower": tower, "images": self.packed.key, **self.views.drawn()})


def training_views(experiment: Experiment, splits: Splits) -> ViewSet | None:
    """The views that students will be taught from, None where the teacher runs inside training."""
    views = experiment.views
    if views.teacher == "live":
        return None
    if views.teacher == "center":
        return ViewSet.center(splits.train)
    return ViewSet(splits.train, views.resolve(), views.stored if views.resolve().random else 1, views.seed)


def held_out_views(splits: Splits) -> ViewSet:
    """The views that the teacher's own zero-shot accuracy is measured on."""
    return ViewSet.center(np.sort(np.concatenate([splits.val, splits.test])))


def wanted_by(experiment: Experiment, packed: PackedImages, splits: Splits) -> list[Wanted]:
    """All passes an experiment needs: every teacher's over the training views, the first one's over val and test."""
    passes = [Wanted(experiment.teacher, packed, held_out_views(splits))]
    views = training_views(experiment, splits)
    return passes if views is None else [Wanted(tower, packed, views) for tower in experiment.teacher.all()] + passes


def joined(passes: Iterable[Wanted]) -> dict[str, Wanted]:
    """The fewest passes that cover all of these, by group: no view of a sample is encoded twice."""
    groups: dict[str, Wanted] = {}
    for one in passes:
        known = groups.get(one.group)
        groups[one.group] = one if known is None else Wanted(one.tower, one.packed, known.views.joined(one.views))
    return groups
