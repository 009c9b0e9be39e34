"""The anchor banks that experiments need: which, and made all at once, each sentence through each text tower once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beamclip.anchors import AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import own_classes, senses_of
from beamclip.config import Experiment, OtherTeacher, TowerConfig, UserError
from beamclip.preparation.context import PreparationContext
from beamclip.stores import Store, key_of


@dataclass(frozen=True)
class ExperimentAnchorSets:
    """The banks of one experiment.

    Attributes:
        matched: each teacher's, over the vocabulary that students match.
        own: the first teacher's, over the data's own classes, on which zero-shot is scored.
    """

    matched: tuple[tuple[TowerConfig, AnchorSetPlan], ...]
    own: tuple[TowerConfig, AnchorSetPlan]

    def all(self) -> tuple[tuple[TowerConfig, AnchorSetPlan], ...]:
        """Every one of them."""
        return (*self.matched, self.own)


def anchor_sets_of(experiment: Experiment, workshop: PreparationContext) -> ExperimentAnchorSets:
    """What an experiment's banks will be made of. Opens the source, and no teacher.

    Raises:
        UserError: class names, senses, vocabulary or `anchors.count` are not what they should be.
    """
    source, config = workshop.source(experiment.data), experiment.anchors
    own = own_classes(source.names, source.keys, experiment.data.class_names)
    senses, matched = senses_of(own, config), senses_of(own, config, config.vocabulary)
    if config.count is not None and config.count > len(matched):
        what = (
            "class names of the data"
            if config.vocabulary == "data"
            else f"names of anchors.vocabulary {config.vocabulary}"
        )
        raise UserError(
            f"anchors.count {config.count} is more than the {len(matched)} {what}; lower it or drop it"
        )
    if len(matched) < 2:
        raise UserError(
            f"anchors.vocabulary {config.vocabulary} has one name only, which all images match alike; give at least two"
        )
    names = [(tower, _prompt_set(tower, experiment)) for tower in experiment.teachers]
    plans = tuple(
        (tower, AnchorSetPlan.of(matched, name, config.members(name))) for tower, name in names
    )
    return ExperimentAnchorSets(
        plans, (experiment.teacher, AnchorSetPlan.of(senses, config.prompt_set, config.members()))
    )


def _prompt_set(tower: TowerConfig, experiment: Experiment) -> str:
    return (
        tower.prompt_set if isinstance(tower, OtherTeacher) else None
    ) or experiment.anchors.prompt_set


def make_anchor_sets(
    wanted: Iterable[ExperimentAnchorSets], workshop: PreparationContext
) -> Mapping[tuple[str, str], Store]:
    """Make what is missing of the banks of many experiments.

    Returns:
        Stores by `place_of` a teacher and a plan.

    Raises:
        UserError: as `build_anchor_sets`.
    """
    towers: dict[str, TowerConfig] = {}
    plans: dict[str, dict[str, AnchorSetPlan]] = defaultdict(dict)
    for tower, plan in (pair for banks in wanted for pair in banks.all()):
        (text_tower, prompts) = place_of(tower, plan, workshop)
        towers.setdefault(text_tower, tower)
        plans[text_tower][prompts] = plan
    made: dict[tuple[str, str], Store] = {}
    for text_tower, own in plans.items():
        teacher, w = workshop.teacher(towers[text_tower]), workshop
        stores = build_anchor_sets(teacher, list(own.values()), w.root, w.progress, w.run, w.repair)
        made |= {(text_tower, prompts): store for prompts, store in zip(own, stores, strict=True)}
    return made


def place_of(
    tower: TowerConfig, plan: AnchorSetPlan, workshop: PreparationContext
) -> tuple[str, str]:
    """The text tower, and the sentences: what a bank is found by."""
    teacher = workshop.teacher(tower)
    return key_of(teacher.text_fingerprint), key_of(plan.parts(teacher))
