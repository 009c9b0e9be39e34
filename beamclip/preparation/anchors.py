"""Plan and build the anchor sets of experiments. A text tower encodes each sentence only once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beamclip.anchors import AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import dataset_classes, resolve_senses
from beamclip.config import Experiment, OtherTeacher, TowerConfig, UserError
from beamclip.preparation.context import PreparationContext
from beamclip.stores import Store, key_of

TeacherAnchorSet = tuple[TowerConfig, AnchorSetPlan]
"""A teacher, and a plan of an anchor set that its text tower encodes."""

AnchorSetKey = tuple[str, str]
"""Keys of a text tower and of the sentences it encodes; see `anchor_set_key`."""


@dataclass(frozen=True)
class ExperimentAnchorSets:
    """Plans of the anchor sets of one experiment.

    Attributes:
        matched: for each teacher, the anchors of `anchors.vocabulary`, which students match.
        own: the first teacher's anchors of the data's own classes, for zero-shot accuracy.
    """

    matched: tuple[TeacherAnchorSet, ...]
    own: TeacherAnchorSet

    def all(self) -> tuple[TeacherAnchorSet, ...]:
        """Return all anchor sets."""
        return (*self.matched, self.own)


def plan_anchor_sets(experiment: Experiment, context: PreparationContext) -> ExperimentAnchorSets:
    """Plan the anchor sets of an experiment. Opens the data source, but loads no teacher.

    Raises:
        UserError: class names, senses, vocabulary or `anchors.count` can't be used.
    """
    source = context.source(experiment.data)
    config = experiment.anchors
    classes = dataset_classes(source.names, source.keys, experiment.data.class_names)
    own_senses = resolve_senses(classes, config)
    matched_senses = resolve_senses(classes, config, config.vocabulary)

    # Check what depends on the number of anchors before any teacher is loaded.
    if config.count is not None and config.count > len(matched_senses):
        available = (
            "class names of the data"
            if config.vocabulary == "data"
            else f"names of anchors.vocabulary {config.vocabulary}"
        )
        raise UserError(
            f"anchors.count {config.count} is more than the {len(matched_senses)} {available}; "
            "lower it or drop it"
        )
    if len(matched_senses) < 2:
        raise UserError(
            f"anchors.vocabulary {config.vocabulary} has one name only, which all images match "
            "alike; give at least two"
        )

    matched = []
    for tower in experiment.teachers:
        prompt_set = _prompt_set(tower, experiment)
        plan = AnchorSetPlan.of(matched_senses, prompt_set, config.members(prompt_set))
        matched.append((tower, plan))
    own = AnchorSetPlan.of(own_senses, config.prompt_set, config.members())
    return ExperimentAnchorSets(tuple(matched), (experiment.teacher, own))


def _prompt_set(tower: TowerConfig, experiment: Experiment) -> str:
    """Return the prompt set of a teacher: its own, or else the experiment's."""
    if isinstance(tower, OtherTeacher) and tower.prompt_set:
        return tower.prompt_set
    return experiment.anchors.prompt_set


def make_anchor_sets(
    required: Iterable[ExperimentAnchorSets], context: PreparationContext
) -> Mapping[AnchorSetKey, Store]:
    """Build the anchor sets that are missing, for many experiments together.

    Args:
        required: the anchor sets of each experiment.
        context: loads teachers.

    Returns:
        The stores of all required anchor sets, by `anchor_set_key`.

    Raises:
        UserError: see `build_anchor_sets`.
    """
    # Group by text tower and drop duplicates. `build_anchor_sets` then encodes the sentences of a
    # whole group together, each once.
    towers: dict[str, TowerConfig] = {}
    plans: dict[str, dict[str, AnchorSetPlan]] = defaultdict(dict)
    for anchor_sets in required:
        for tower, plan in anchor_sets.all():
            text_tower, sentences = anchor_set_key(tower, plan, context)
            towers.setdefault(text_tower, tower)
            plans[text_tower][sentences] = plan
    stores: dict[AnchorSetKey, Store] = {}
    for text_tower, tower_plans in plans.items():
        tower_stores = build_anchor_sets(
            context.teacher(towers[text_tower]),
            list(tower_plans.values()),
            context.root,
            context.progress,
            context.run,
            context.repair,
        )
        for sentences, store in zip(tower_plans, tower_stores, strict=True):
            stores[text_tower, sentences] = store
    return stores


def anchor_set_key(
    tower: TowerConfig, plan: AnchorSetPlan, context: PreparationContext
) -> AnchorSetKey:
    """Return the keys of the text tower and of the sentences.

    Equal keys mean equal anchors, even if teachers or prompt sets have different names.
    """
    teacher = context.teacher(tower)
    return key_of(teacher.text_fingerprint), key_of(plan.parts(teacher))
