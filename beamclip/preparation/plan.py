"""What a sweep would have to make before its trials can start, and what that takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beamclip.anchors import AnchorSetPlan, existing_anchor_set
from beamclip.config import DataConfig, Experiment, TowerConfig
from beamclip.data import PackedImages, Source, Splits, open_packed, split
from beamclip.data.base import SPLITS
from beamclip.data.packing import cost_of_an_image
from beamclip.preparation.anchors import anchor_sets_of, place_of
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import basis_of, images_left, parts_of
from beamclip.preparation.forecast import (
    Foreseen,
    ForeseenPass,
    choosing_needs,
    foresee,
    foreseen_passes,
    open_if_intact,
)
from beamclip.preparation.forecast import PlannedStore as PlannedStore
from beamclip.preparation.teacher_passes import check_against_data, check_neighbours
from beamclip.stores import Store, StoreDamaged, kept_shards, key_of, read_json, store_path
from beamclip.teachers import Teacher, covering_store

_CLASSES = 2  # at least; how many is known once images are packed
_DEMO_TEACHER_SECONDS = 60.0  # on two cores; see docs/benchmarks.md


@dataclass(frozen=True)
class Parallelism:
    """How many processes will do each kind of work at once."""

    packing: int = 1
    encoding: int = 1


def plan(
    experiments: Iterable[Experiment],
    workshop: PreparationContext,
    hands: Parallelism = Parallelism(),
) -> list[PlannedStore]:
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
    experiment: Experiment, opened: Mapping[Path, PackedImages | None], workshop: PreparationContext
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


def _check(one: Foreseen, splits: Splits, workshop: PreparationContext) -> None:
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


def _no_teacher_yet(tower: TowerConfig, workshop: PreparationContext) -> bool:
    return tower.model == "demo" and open_if_intact(workshop.demo_teacher_path(), workshop) is None


def _images(
    path: Path, config: DataConfig, workshop: PreparationContext, hands: Parallelism
) -> PlannedStore:
    source, store = workshop.source(config), open_if_intact(path, workshop)
    count = sum(source.count(split) for split in SPLITS)
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    if store is not None:
        return PlannedStore("images", what, True, 0, store.bytes, 0.0)
    seconds, size = cost_of_an_image(source, config)
    left = count - sum(len(record["labels"]) + len(record["bad"]) for record in kept_shards(path))
    return PlannedStore(
        "images", what, False, left, int(left * size), left * seconds / hands.packing
    )


def _demo_teacher(workshop: PreparationContext) -> PlannedStore:
    store = open_if_intact(workshop.demo_teacher_path(), workshop)
    return PlannedStore(
        "teacher",
        "the demo's own",
        store is not None,
        0,
        store.bytes if store else 0,
        0.0 if store else _DEMO_TEACHER_SECONDS,
    )


def _packed(path: Path, workshop: PreparationContext) -> PackedImages | None:
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


def _embeddings(
    one: ForeseenPass, workshop: PreparationContext, hands: Parallelism, several: bool
) -> PlannedStore:
    what = (
        f"{one.described(several)} of {'' if one.sure else 'about '}{len(one.views.ids):,} images"
    )
    if _no_teacher_yet(one.tower, workshop):
        return PlannedStore("embeddings", f"demo, {what}", False, one.views.images, 0, None)
    teacher = workshop.teacher(one.tower)
    what, left = f"{teacher.name}, {what}", one.views.images
    if one.packed is not None:
        path = store_path(workshop.root, "embeddings", parts_of(teacher, one.packed, one.views))
        store = covering_store(
            workshop.root, basis_of(teacher, one.packed, one.views), one.views
        ) or open_if_intact(path, workshop)
        if store is not None:
            return PlannedStore("embeddings", what, True, 0, store.bytes, 0.0)
        left = images_left(teacher, one.packed, one.views, workshop.root)
    return PlannedStore(
        "embeddings",
        what,
        False,
        left,
        left * teacher.width * 2,
        left * workshop.pace(teacher).seconds / hands.encoding,
    )


def _anchors(experiments: Iterable[Experiment], workshop: PreparationContext) -> list[PlannedStore]:
    """Every bank once: cells share them."""
    needs: dict[tuple[str, str], PlannedStore] = {}
    for tower, plan in (
        pair for experiment in experiments for pair in anchor_sets_of(experiment, workshop).all()
    ):
        if _no_teacher_yet(tower, workshop):
            needs["demo", key_of({"prompts": plan.prompts})] = PlannedStore(
                "anchors", _bank("demo", plan), False, 0, 0, None
            )
        else:
            needs[place_of(tower, plan, workshop)] = _bank_need(
                workshop.teacher(tower), plan, workshop
            )
    return list(needs.values())


def _bank_need(teacher: Teacher, plan: AnchorSetPlan, workshop: PreparationContext) -> PlannedStore:
    store = existing_anchor_set(teacher, plan, workshop.root, workshop.repair)
    if store is not None:
        return PlannedStore("anchors", _bank(teacher.name, plan), True, 0, store.bytes, 0.0)
    seconds = len(plan.texts) * workshop.text_pace(teacher)
    return PlannedStore(
        "anchors",
        _bank(teacher.name, plan),
        False,
        0,
        len(plan.senses) * teacher.width * 4,
        seconds,
    )


def _bank(teacher: str, plan: AnchorSetPlan) -> str:
    return f"{teacher}, {plan.prompt_set} for {len(plan.senses):,} classes, {len(plan.texts):,} prompts"
