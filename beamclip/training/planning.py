"""What a sweep would have to make before its trials can start, and what that takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from beamclip.anchors import bank_parts
from beamclip.config import RECIPES, DataConfig, Experiment, OtherTeacher, TowerConfig
from beamclip.data import split
from beamclip.data.item import SPLITS
from beamclip.data.pack import cost_of_an_image
from beamclip.stores import Store, StoreDamaged, open_store, store_path
from beamclip.teachers import Teacher, basis_of, covering_store, parts_of
from beamclip.training.wanted import Wanted, joined, wanted_by
from beamclip.training.workshop import Workshop

_DEMO_TEACHER_SECONDS = 60.0  # on two cores; see docs/benchmarks.md


@dataclass(frozen=True)
class Need:
    """One store that a search space needs. JSON values only.

    Attributes:
        store: what kind it is.
        what: what it holds, for people.
        there: whether it exists and is whole.
        images: images that have to be worked on; 0 where it is there.
        bytes: its size.
        seconds: how long making it will take at the rate measured just now; None where nobody can know yet.
    """

    store: str
    what: str
    there: bool
    images: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Hands:
    """How many processes will do each kind of work at once."""

    packing: int = 1
    encoding: int = 1


def plan(experiments: Iterable[Experiment], workshop: Workshop, hands: Hands) -> list[Need]:
    """The stores that these experiments need, in the order in which they are made. Makes none of them.

    Raises:
        UserError: a source or teacher can't be opened, or a store that exists is damaged and not to be repaired.
    """
    return list(dict.fromkeys(_needs(list(experiments), workshop, hands)))


def _needs(experiments: list[Experiment], workshop: Workshop, hands: Hands) -> Iterator[Need]:
    yield from (_images(experiment.data, workshop, hands) for experiment in experiments)
    towers = [tower for experiment in experiments for tower in experiment.teacher.all()]
    yield from (_demo_teacher(workshop) for tower in towers if tower.model == "demo")
    known = [experiment for experiment in experiments if _known(experiment, workshop)]
    passes = [one for experiment in known for one in _wanted(experiment, workshop)]
    yield from (_embeddings(one, workshop, hands) for one in joined(passes).values())
    for experiment in experiments:
        if experiment not in known:
            yield from _unknown(experiment, workshop, hands)
    yield from (_anchors(experiment, tower, workshop) for experiment in experiments for tower in experiment.teacher.all())


def _whole(path: Path, workshop: Workshop) -> Store | None:
    """A store that exists. A damaged one counts as missing where it will be repaired."""
    try:
        return open_store(path) if path.exists() else None
    except StoreDamaged:
        if not workshop.repair:
            raise
        return None


def _images(config: DataConfig, workshop: Workshop, hands: Hands) -> Need:
    source, store = workshop.source(config), _whole(workshop.packed_path(config), workshop)
    count = sum(source.count(split) for split in SPLITS)
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    if store is not None:
        return Need("images", what, True, 0, store.bytes, 0.0)
    seconds, size = cost_of_an_image(source, config)
    return Need("images", what, False, count, int(count * size), count * seconds / hands.packing)


def _demo_teacher(workshop: Workshop) -> Need:
    store = _whole(workshop.demo_teacher_path(), workshop)
    return Need("teacher", "the demo's own", store is not None, 0, store.bytes if store else 0, 0.0 if store else _DEMO_TEACHER_SECONDS)


def _known(experiment: Experiment, workshop: Workshop) -> bool:
    """Whether it can be said by now which images are to be encoded, and by whom."""
    wants_demo = any(tower.model == "demo" for tower in experiment.teacher.all())
    teachers = not wants_demo or _whole(workshop.demo_teacher_path(), workshop) is not None
    return teachers and _whole(workshop.packed_path(experiment.data), workshop) is not None


def _wanted(experiment: Experiment, workshop: Workshop) -> list[Wanted]:
    packed = workshop.packed(experiment.data)
    return wanted_by(experiment, packed, split(packed, experiment.data))


def _embeddings(one: Wanted, workshop: Workshop, hands: Hands) -> Need:
    teacher = workshop.teacher(one.tower)
    what = f"{teacher.name}, {_views(one.views.count, one.views.recipe == RECIPES['center'])} of {len(one.views.ids):,} images"
    store = _whole(store_path(workshop.root, "embeddings", parts_of(teacher, one.packed, one.views)), workshop)
    store = store or covering_store(workshop.root, basis_of(teacher, one.packed, one.views), one.views)
    if store is not None:
        return Need("embeddings", what, True, 0, store.bytes, 0.0)
    return _to_encode(what, one.views.images, teacher, workshop, hands)


def _views(count: int, central: bool) -> str:
    return "the central view" if central else f"{count} view{'s' if count > 1 else ''}"


def _to_encode(what: str, images: int, teacher: Teacher, workshop: Workshop, hands: Hands) -> Need:
    seconds = images * workshop.pace(teacher).seconds / hands.encoding
    return Need("embeddings", what, False, images, images * teacher.width * 2, seconds)


def _unknown(experiment: Experiment, workshop: Workshop, hands: Hands) -> Iterator[Need]:
    """Passes over images that are not packed, or of a teacher that is not trained yet: their number is near, their key unknown."""
    source, views = workshop.source(experiment.data), experiment.views
    train = round(source.count("train") * (1 - experiment.data.val_fraction))
    held_out = source.count("train") - train + source.count("test")
    train = min(train, experiment.data.train_images or train)
    count = 1 if views.teacher == "center" or not views.resolve().random else views.stored
    passes: list[tuple[TowerConfig, int, int]] = [(experiment.teacher, 1, held_out)]
    if views.teacher != "live":
        passes = [(tower, count, train) for tower in experiment.teacher.all()] + passes
    for tower, count, samples in passes:
        what = f"{_views(count, samples == held_out or views.teacher == 'center')} of about {samples:,} images"
        if tower.model == "demo":
            yield Need("embeddings", f"demo, {what}", False, samples * count, 0, None)
        else:
            teacher = workshop.teacher(tower)
            yield _to_encode(f"{teacher.name}, {what}", samples * count, teacher, workshop, hands)


def _anchors(experiment: Experiment, tower: TowerConfig, workshop: Workshop) -> Need:
    names = workshop.source(experiment.data).names
    prompt_set = (tower.prompt_set if isinstance(tower, OtherTeacher) else None) or experiment.anchors.prompt_set
    if tower.model == "demo" and _whole(workshop.demo_teacher_path(), workshop) is None:
        return Need("anchors", f"demo, {prompt_set} for {len(names):,} classes", False, 0, 0, None)
    teacher = workshop.teacher(tower)
    store = _whole(store_path(workshop.root, "anchors", bank_parts(teacher, names, prompt_set)), workshop)
    what = f"{teacher.name}, {prompt_set} for {len(names):,} classes"
    return Need("anchors", what, store is not None, 0, store.bytes if store else len(names) * teacher.width * 4, 0.0 if store else None)
