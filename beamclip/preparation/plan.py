"""What a sweep would have to make before its trials can start, and what that takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beamclip.anchors import BankPlan, existing_bank
from beamclip.config import DataConfig, Experiment, TowerConfig
from beamclip.data import PackedImages, Source, Splits, open_packed, split
from beamclip.data.base import SPLITS
from beamclip.data.packing import cost_of_an_image
from beamclip.preparation.anchors import banks_of, place_of
from beamclip.preparation.context import Workshop
from beamclip.preparation.embedding_store import basis_of, images_left, parts_of
from beamclip.preparation.forecast import (
    Foreseen,
    ForeseenPass,
    choosing_needs,
    foresee,
    foreseen_passes,
    whole,
)
from beamclip.preparation.forecast import Need as Need
from beamclip.preparation.teacher_passes import check_against_data, check_neighbours
from beamclip.stores import Store, StoreDamaged, kept_shards, key_of, read_json, store_path
from beamclip.teachers import Teacher, covering_store

_CLASSES = 2  # at least; how many is known once images are packed
_DEMO_TEACHER_SECONDS = 60.0  # on two cores; see docs/benchmarks.md


@dataclass(frozen=True)
class Hands:
    """How many processes will do each kind of work at once."""

    packing: int = 1
    encoding: int = 1


def plan(
    experiments: Iterable[Experiment], workshop: Workshop, hands: Hands = Hands()
) -> list[Need]:
    """The stores that these experiments need, each once, in the order in which they are made. Makes none of them.

    Raises:
        UserError: a source or teacher can't be opened, a store that exists is damaged and not to be repaired, or an experiment asks for
            more images than there are.
    """
    experiments = list(experiments)
    configs = {workshop.packed_path(experiment.data): experiment.data for experiment in experiments}
    images = [_images(path, config, workshop, hands) for path, config in configs.items()]
    demo = (
        [_demo_teacher(workshop)]
        if any(tower.model == "demo" for one in experiments for tower in one.teachers)
        else []
    )
    packed = {path: _packed(path, workshop) for path in configs}
    foreseen = [_foreseen(experiment, packed, workshop) for experiment in experiments]
    for one, splits in foreseen:
        _check(one, splits, workshop)
    passes = foreseen_passes(foreseen, workshop)
    several = len({one.name for one in passes if one.views.recipe.random}) > 1
    embeddings = [_embeddings(one, workshop, hands, several) for one in passes]
    choosing = {
        key: need for one, _ in foreseen for key, need in choosing_needs(one, workshop).items()
    }
    return [*images, *demo, *embeddings, *choosing.values(), *_anchors(experiments, workshop)]


def _foreseen(
    experiment: Experiment, opened: Mapping[Path, PackedImages | None], workshop: Workshop
) -> tuple[Foreseen, Splits]:
    packed = opened[workshop.packed_path(experiment.data)]
    splits = (
        split(packed, experiment.data)
        if packed is not None
        else _near_splits(experiment.data, workshop.source(experiment.data))
    )
    missing = _no_teacher_yet(experiment.teacher, workshop)
    asked = not missing and (experiment.balance.active or experiment.objective.needs.clusters)
    return foresee(
        experiment,
        packed,
        splits,
        workshop.teacher(experiment.teacher) if asked else None,
        workshop,
    ), splits


def _check(one: Foreseen, splits: Splits, workshop: Workshop) -> None:
    """Refuse what the data can't give. Where nothing is packed yet, that is judged by all images there are, of which some may prove bad."""
    data, known = one.experiment.data, one.packed is not None
    listed = workshop.source(data).count("train")
    most = min(listed, data.train_images or listed)
    check_against_data(
        one.experiment,
        one.packed.classes if one.packed else _CLASSES,
        len(one.offered) if known else most,
    )
    check_neighbours(one.experiment, len(splits.train) if known else most)


def _no_teacher_yet(tower: TowerConfig, workshop: Workshop) -> bool:
    return tower.model == "demo" and whole(workshop.demo_teacher_path(), workshop) is None


def _images(path: Path, config: DataConfig, workshop: Workshop, hands: Hands) -> Need:
    source, store = workshop.source(config), whole(path, workshop)
    count = sum(source.count(split) for split in SPLITS)
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    if store is not None:
        return Need("images", what, True, 0, store.bytes, 0.0)
    seconds, size = cost_of_an_image(source, config)
    left = count - sum(len(record["labels"]) + len(record["bad"]) for record in kept_shards(path))
    return Need("images", what, False, left, int(left * size), left * seconds / hands.packing)


def _demo_teacher(workshop: Workshop) -> Need:
    store = whole(workshop.demo_teacher_path(), workshop)
    return Need(
        "teacher",
        "the demo's own",
        store is not None,
        0,
        store.bytes if store else 0,
        0.0 if store else _DEMO_TEACHER_SECONDS,
    )


def _packed(path: Path, workshop: Workshop) -> PackedImages | None:
    """Packed images, opened far enough to be split; where only pixels are damaged and will be repaired, that is known too."""
    try:
        return open_packed(path) if path.exists() else None
    except StoreDamaged as damage:
        if not workshop.repair:
            raise
        manifest = read_json(path / "manifest.json") if damage.files else {}
        needed = {"labels.npy", "groups.npy"} | (
            {"bad.csv"} if manifest.get("bad") else set()
        )  # the key says which were left out
        return (
            PackedImages(Store(path, manifest))
            if damage.files and not needed.intersection(damage.files)
            else None
        )


def _near_splits(config: DataConfig, source: Source) -> Splits:
    """As many images in each split as there will be, give or take some: which ones is known once they are packed."""
    count, train = source.count("train"), round(source.count("train") * (1 - config.val_fraction))
    test = np.arange(count, count + source.count("test"))
    return Splits(
        np.arange(min(train, config.train_images or train)), np.arange(train, count), test
    )


def _embeddings(one: ForeseenPass, workshop: Workshop, hands: Hands, several: bool) -> Need:
    what = (
        f"{one.described(several)} of {'' if one.sure else 'about '}{len(one.views.ids):,} images"
    )
    if _no_teacher_yet(one.tower, workshop):
        return Need("embeddings", f"demo, {what}", False, one.views.images, 0, None)
    teacher = workshop.teacher(one.tower)
    what, left = f"{teacher.name}, {what}", one.views.images
    if one.packed is not None:
        path = store_path(workshop.root, "embeddings", parts_of(teacher, one.packed, one.views))
        store = covering_store(
            workshop.root, basis_of(teacher, one.packed, one.views), one.views
        ) or whole(path, workshop)
        if store is not None:
            return Need("embeddings", what, True, 0, store.bytes, 0.0)
        left = images_left(teacher, one.packed, one.views, workshop.root)
    return Need(
        "embeddings",
        what,
        False,
        left,
        left * teacher.width * 2,
        left * workshop.pace(teacher).seconds / hands.encoding,
    )


def _anchors(experiments: Iterable[Experiment], workshop: Workshop) -> list[Need]:
    """Every bank once: cells share them."""
    needs: dict[tuple[str, str], Need] = {}
    for tower, plan in (
        pair for experiment in experiments for pair in banks_of(experiment, workshop).all()
    ):
        if _no_teacher_yet(tower, workshop):
            needs["demo", key_of({"prompts": plan.prompts})] = Need(
                "anchors", _bank("demo", plan), False, 0, 0, None
            )
        else:
            needs[place_of(tower, plan, workshop)] = _bank_need(
                workshop.teacher(tower), plan, workshop
            )
    return list(needs.values())


def _bank_need(teacher: Teacher, plan: BankPlan, workshop: Workshop) -> Need:
    store = existing_bank(teacher, plan, workshop.root, workshop.repair)
    if store is not None:
        return Need("anchors", _bank(teacher.name, plan), True, 0, store.bytes, 0.0)
    seconds = len(plan.texts) * workshop.text_pace(teacher)
    return Need(
        "anchors",
        _bank(teacher.name, plan),
        False,
        0,
        len(plan.senses) * teacher.width * 4,
        seconds,
    )


def _bank(teacher: str, plan: BankPlan) -> str:
    return f"{teacher}, {plan.prompt_set} for {len(plan.senses):,} classes, {len(plan.texts):,} prompts"
