"""Making what runs read before they start: packed images, teacher embeddings, anchors."""

from collections.abc import Mapping
from typing import Any

import torch

from beamclip.anchors import AnchorSet, report_of
from beamclip.config import Experiment
from beamclip.data import PackedImages, Splits
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.preparation.anchors import (
    ExperimentAnchorSets,
    anchor_sets_of,
    make_anchor_sets,
    place_of,
)
from beamclip.preparation.assets import Assets, TeacherAssets
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.teacher_passes import (
    Passes,
    Wanted,
    held_out_views,
    make_passes,
    training_views,
)
from beamclip.preparation.train_subset import Chosen
from beamclip.stores import Store, key_of
from beamclip.students import check_backbone
from beamclip.teachers import Embeddings, Teacher


def prepare(experiment: Experiment, workshop: PreparationContext) -> Assets:
    """Make what is missing of a run's stores; a second call opens them. See `prepare_all`."""
    return prepare_all({"": experiment}, workshop)[""]


def prepare_all(
    experiments: Mapping[str, Experiment], workshop: PreparationContext
) -> dict[str, Assets]:
    """Make what is missing of the stores of many experiments: no teacher sees a view of an image twice.

    Raises:
        UserError: data, teacher, student or class names are not what an experiment says.
    """
    for name in sorted({experiment.student.backbone for experiment in experiments.values()}):
        check_backbone(name)
    wanted = {
        key: anchor_sets_of(experiment, workshop) for key, experiment in experiments.items()
    }  # first: names are where users err
    passes = make_passes(experiments, workshop)
    banks = make_anchor_sets(wanted.values(), workshop)
    return {
        key: _assets(key, experiment, passes, wanted[key], banks, workshop)
        for key, experiment in experiments.items()
    }


Banks = Mapping[tuple[str, str], Store]
"""Stores of anchors by `place_of`."""


def _assets(
    key: str,
    experiment: Experiment,
    passes: Passes,
    banks: ExperimentAnchorSets,
    stores: Banks,
    workshop: PreparationContext,
) -> Assets:
    (packed, splits), chosen = passes.opened[key], passes.chosen[key]
    views = training_views(experiment, chosen.trained)
    teachers = []
    for tower, plan in banks.matched:
        path = (
            None if views is None else str(passes.store_of(Wanted(tower, packed, views)).store.path)
        )
        anchors, config = (
            str(stores[place_of(tower, plan, workshop)].path),
            workshop.teacher(tower).config.model_dump(mode="json"),
        )
        teachers.append(TeacherAssets(path, anchors, config, getattr(tower, "temperature", None)))
    first, own = banks.matched[0], stores[place_of(*banks.own, workshop)]
    held_out = passes.store_of(Wanted(first[0], packed, held_out_views(splits)))
    facts = _facts(experiment, packed, chosen, workshop.teacher(first[0])) | _zero_shot(
        held_out, AnchorSet.open(own), packed, splits
    )
    facts["anchors"] = report_of(
        stores[place_of(*first, workshop)], first[1].prompt_set, first[1].senses
    ).summary()
    facts["teacher/images_encoded"] = passes.encoded_for(experiment, key)
    facts["teacher/images_encoded_in_all"] = passes.encoded
    return Assets(
        str(packed.store.path),
        tuple(teachers),
        str(own.path),
        facts,
        _path(chosen.store),
        _path(chosen.clusters),
    )


def _path(store: Store | None) -> str | None:
    return None if store is None else str(store.path)


def _facts(
    experiment: Experiment, packed: PackedImages, chosen: Chosen, teacher: Teacher
) -> dict[str, Any]:
    others = "".join(
        f" + {tower.model.rstrip('/').rsplit('/', 1)[-1]}" for tower in experiment.teachers[1:]
    )
    balanced = {} if chosen.facts is None else {"balance": dict(chosen.facts)}
    return balanced | {
        "data_key": packed.key,
        "classes": packed.classes,
        "train_images": len(chosen.trained),
        "teacher": f"{teacher.name}{others}",
        "teacher_fingerprint": key_of(teacher.fingerprint),
        "width": teacher.width,
    }


def _zero_shot(
    held_out: Embeddings, anchors: AnchorSet, packed: PackedImages, splits: Splits
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, ids in (("val", splits.val), ("test", splits.test)):
        logits = zero_shot_logits(torch.from_numpy(held_out.gather(ids, 0)), anchors.embeddings)
        per_cent, key = (
            accuracy(logits, torch.from_numpy(packed.labels[ids])),
            f"teacher/zero_shot_{name}_top1",
        )
        metrics |= {key: per_cent, f"{key}_low": wilson_interval(per_cent, len(ids))[0]}
    return metrics
