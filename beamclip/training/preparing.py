"""Making what runs read before they start: packed images, teacher embeddings, anchors."""

from collections.abc import Mapping
from typing import Any

import torch

from beamclip.anchors import AnchorBank, report_of
from beamclip.config import Experiment, UserError
from beamclip.data import PackedImages, Splits, split
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.stores import Store, key_of
from beamclip.students import check_backbone
from beamclip.teachers import Embeddings, Teacher, embed
from beamclip.training.assets import Assets, TeacherAssets
from beamclip.training.banks import ExperimentBanks, banks_of, make_banks, place_of
from beamclip.training.wanted import Wanted, held_out_views, joined, training_views, wanted_by
from beamclip.training.workshop import Workshop


def prepare(experiment: Experiment, workshop: Workshop) -> Assets:
    """Make what is missing of a run's stores; a second call opens them. See `prepare_all`."""
    return prepare_all({"": experiment}, workshop)[""]


def prepare_all(experiments: Mapping[str, Experiment], workshop: Workshop) -> dict[str, Assets]:
    """Make what is missing of the stores of many experiments: no teacher sees a view of an image twice.

    Raises:
        UserError: data, teacher, student or class names are not what an experiment says.
    """
    for name in sorted({experiment.student.backbone for experiment in experiments.values()}):
        check_backbone(name)
    wanted = {key: banks_of(experiment, workshop) for key, experiment in experiments.items()}  # first: names are where users err
    opened = {key: _packed_and_split(experiment, workshop) for key, experiment in experiments.items()}
    passes = joined(one for key, experiment in experiments.items() for one in wanted_by(experiment, *opened[key]))
    made = {group: _encode(one, workshop) for group, one in passes.items()}
    banks = make_banks(wanted.values(), workshop)
    return {key: _assets(experiment, *opened[key], made, wanted[key], banks, workshop) for key, experiment in experiments.items()}


Made = Mapping[str, tuple[Embeddings, int]]
"""Group of passes -> its store, and how many images were encoded for it now."""


Banks = Mapping[tuple[str, str], Store]
"""Stores of anchors by `place_of`."""


def _packed_and_split(experiment: Experiment, workshop: Workshop) -> tuple[PackedImages, Splits]:
    packed = workshop.packed(experiment.data)
    splits = split(packed, experiment.data)
    check_against_data(experiment, packed, splits)
    return packed, splits


def _encode(one: Wanted, workshop: Workshop) -> tuple[Embeddings, int]:
    w = workshop
    return embed(w.teacher(one.tower), one.packed, one.views, w.root, w.progress, w.run, w.repair, w.pace)


def _assets(
    experiment: Experiment, packed: PackedImages, splits: Splits, made: Made, banks: ExperimentBanks, stores: Banks, workshop: Workshop
) -> Assets:
    views = training_views(experiment, splits)
    teachers = []
    for tower, plan in banks.matched:
        path = None if views is None else str(made[Wanted(tower, packed, views).group][0].store.path)
        anchors, config = str(stores[place_of(tower, plan, workshop)].path), workshop.teacher(tower).config.model_dump(mode="json")
        teachers.append(TeacherAssets(path, anchors, config, getattr(tower, "temperature", None)))
    first, own = banks.matched[0], stores[place_of(*banks.own, workshop)]
    held_out = made[Wanted(first[0], packed, held_out_views(splits)).group][0]
    facts = _facts(experiment, packed, splits, workshop.teacher(first[0])) | _zero_shot(held_out, AnchorBank.open(own), packed, splits)
    facts["anchors"] = report_of(stores[place_of(*first, workshop)], first[1].prompt_set, first[1].senses).summary()
    facts["teacher/images_encoded"] = sum(made[group][1] for group in {one.group for one in wanted_by(experiment, packed, splits)})
    return Assets(str(packed.store.path), tuple(teachers), str(own.path), facts)


def _facts(experiment: Experiment, packed: PackedImages, splits: Splits, teacher: Teacher) -> dict[str, Any]:
    others = "".join(f" + {tower.model.rstrip('/').rsplit('/', 1)[-1]}" for tower in experiment.teacher.others)
    return {
        "data_key": packed.key,
        "classes": packed.classes,
        "train_images": len(splits.train),
        "teacher": f"{teacher.name}{others}",
        "teacher_fingerprint": key_of(teacher.fingerprint),
        "width": teacher.width,
    }


def _zero_shot(held_out: Embeddings, anchors: AnchorBank, packed: PackedImages, splits: Splits) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, ids in (("val", splits.val), ("test", splits.test)):
        logits = zero_shot_logits(torch.from_numpy(held_out.gather(ids, 0)), anchors.embeddings)
        per_cent, key = accuracy(logits, torch.from_numpy(packed.labels[ids])), f"teacher/zero_shot_{name}_top1"
        metrics |= {key: per_cent, f"{key}_low": wilson_interval(per_cent, len(ids))[0]}
    return metrics


def check_against_data(experiment: Experiment, packed: PackedImages, splits: Splits) -> None:
    """What can only be checked once the data is known.

    Raises:
        UserError: a batch larger than the training set.
    """
    batch = experiment.optimiser.batch_size
    if batch > len(splits.train):
        raise UserError(f"optimiser.batch_size {batch} is more than the {len(splits.train)} training images; lower it")
