"""Build all stores that runs read: packed images, teacher embeddings, anchors, training subsets.

`prepare_all` is the entry point. A sweep calls it before its first trial.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from beamclip.anchors import AnchorSet, anchor_report
from beamclip.config import Experiment
from beamclip.preparation.anchors import (
    AnchorSetKey,
    ExperimentAnchorSets,
    anchor_set_key,
    make_anchor_sets,
    plan_anchor_sets,
)
from beamclip.preparation.assets import AssetFacts, Assets, TeacherAssets
from beamclip.preparation.class_check import check_class_names
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.teacher_passes import (
    PassResults,
    TeacherPass,
    held_out_views,
    pack_images,
    run_teacher_passes,
    training_views,
)
from beamclip.preparation.zero_shot import teacher_accuracy
from beamclip.stores import Store, key_of
from beamclip.students import check_backbone


def prepare(experiment: Experiment, context: PreparationContext) -> Assets:
    """Build the missing stores of one experiment; see `prepare_all`."""
    return prepare_all({"": experiment}, context)[""]


def prepare_all(
    experiments: Mapping[str, Experiment], context: PreparationContext
) -> dict[str, Assets]:
    """Build the missing stores of many experiments; stores that exist are only opened.

    No teacher encodes a view of an image twice.

    Args:
        experiments: experiments by name.
        context: opens data and teachers.

    Returns:
        The assets of each experiment, by its name.

    Raises:
        UserError: data, teacher, student or class names can't be used as configured.
    """
    # The cheap checks come first, so that a mistake is found before hours of encoding.
    for backbone in sorted({experiment.student.backbone for experiment in experiments.values()}):
        check_backbone(backbone)
    # Planning opens the data and resolves class names and senses, where most mistakes are.
    anchor_sets = {
        name: plan_anchor_sets(experiment, context) for name, experiment in experiments.items()
    }
    data = pack_images(experiments, context)
    anchor_stores = make_anchor_sets(anchor_sets.values(), context)
    encoded = check_class_names(experiments, data, anchor_sets, anchor_stores, context)
    passes = run_teacher_passes(experiments, data, context, encoded)
    built = _Built(passes, anchor_sets, anchor_stores)
    return {
        name: _assets(name, experiment, built, context) for name, experiment in experiments.items()
    }


@dataclass(frozen=True)
class _Built:
    """Everything that was built for these experiments.

    Attributes:
        passes: results of the teacher passes.
        anchor_sets: plans of the anchor sets, by name of the experiment.
        anchor_stores: stores of the anchor sets, by `anchor_set_key`.
    """

    passes: PassResults
    anchor_sets: Mapping[str, ExperimentAnchorSets]
    anchor_stores: Mapping[AnchorSetKey, Store]


def _assets(
    name: str, experiment: Experiment, built: _Built, context: PreparationContext
) -> Assets:
    packed, _ = built.passes.data[name]
    subset = built.passes.subsets[name]
    anchor_sets = built.anchor_sets[name]
    views = training_views(experiment, subset.ids)
    teachers = []
    for tower, plan in anchor_sets.matched:
        views_path = None
        if views is not None:
            embeddings = built.passes.store_of(TeacherPass(tower, packed, views))
            views_path = str(embeddings.store.path)
        anchor_store = built.anchor_stores[anchor_set_key(tower, plan, context)]
        teachers.append(
            TeacherAssets(
                views=views_path,
                anchors=str(anchor_store.path),
                # Not the experiment's config: the loaded teacher's names the demo's path, and the
                # precision that `auto` means on the workers.
                tower=context.teacher(tower).config.model_dump(mode="json"),
                # Only a further teacher (`OtherTeacher`) can have its own temperature.
                temperature=getattr(tower, "temperature", None),
            )
        )
    own_anchors = built.anchor_stores[anchor_set_key(*anchor_sets.own, context)]
    return Assets(
        packed=str(packed.store.path),
        teachers=tuple(teachers),
        classes=str(own_anchors.path),
        facts=_facts(name, experiment, built, context),
        trained=None if subset.store is None else str(subset.store.path),
        clusters=None if subset.clusters is None else str(subset.clusters.path),
    )


def _facts(
    name: str, experiment: Experiment, built: _Built, context: PreparationContext
) -> AssetFacts:
    packed, splits = built.passes.data[name]
    subset = built.passes.subsets[name]
    anchor_sets = built.anchor_sets[name]
    # All facts about "the" teacher are those of the first one.
    tower, plan = anchor_sets.matched[0]
    teacher = context.teacher(tower)
    others = [_short_name(other.model) for other in experiment.teachers[1:]]
    held_out = built.passes.store_of(TeacherPass(tower, packed, held_out_views(splits)))
    own_anchors = AnchorSet.open(built.anchor_stores[anchor_set_key(*anchor_sets.own, context)])
    matched_store = built.anchor_stores[anchor_set_key(tower, plan, context)]
    report = anchor_report(matched_store, plan.prompt_set, plan.senses)
    return AssetFacts(
        data_key=packed.key,
        classes=packed.classes,
        train_images=len(subset.ids),
        teacher=" + ".join([teacher.name, *others]),
        teacher_fingerprint=key_of(teacher.fingerprint),
        width=teacher.width,
        zero_shot_val=teacher_accuracy(held_out, own_anchors, packed, splits.val),
        zero_shot_test=teacher_accuracy(held_out, own_anchors, packed, splits.test),
        anchors=report.summary(),
        images_encoded=built.passes.encoded_for(experiment, name),
        images_encoded_in_all=built.passes.encoded,
        balance=subset.facts,
    )


def _short_name(model: str) -> str:
    """Return the last part of a model's name or path."""
    return model.rstrip("/").rsplit("/", 1)[-1]
