"""`beamclip evaluate`: the probes of a sweep, on any checkpoint of ours or any timm model, without Ray, and on other data too."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from beamclip.anchors import AnchorSet, build_anchor_sets
from beamclip.anchors.wordnet import open_vocabulary
from beamclip.config import FEW_SHOT, Experiment, UserError, with_values
from beamclip.data import PackedImages, Splits, read_class_names, split
from beamclip.data.class_names import normalize_name
from beamclip.evaluation import Evaluation, evaluate
from beamclip.preparation.anchors import anchor_sets_of
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.teacher_passes import check_neighbours
from beamclip.stores.paths import check_writable, stores_root
from beamclip.students import Student, build_student, load_student, was_projected
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.student_init import as_trained, fetched
from beamclip.training.context import Context
from beamclip.training.evaluate import evaluation_features, student_pixels

# A data set that a model is judged on, and what is wrong with it before any feature is made.


@dataclass(frozen=True)
class Judged:
    """One data set, and the probes on it.

    Attributes:
        name: what it is called in the table.
        transferred: whether `--transfer` named it; else it is the model's own.
    """

    name: str
    experiment: Experiment
    transferred: bool = False

    def check(self, workshop: PreparationContext) -> None:
        """Find what is wrong with the data as far as it is known without reading an image.

        Raises:
            UserError: there is no such data, or too little of it.
        """
        with self._named():
            count = workshop.source(self.experiment.data).count("train")
            wanted = self.experiment.data.train_images or count
            if wanted > count:
                raise UserError(
                    f"data.train_images is {wanted} but the data has only {count} train images; lower it"
                )
            check_neighbours(self.experiment, wanted)

    def opened(self, workshop: PreparationContext) -> tuple[PackedImages, Splits]:
        """The images, packed where they were not yet, and their splits.

        Raises:
            UserError: as `pack` and `split`, or there are more neighbours than train images.
        """
        with self._named():
            packed = workshop.packed(self.experiment.data)
            splits = split(packed, self.experiment.data)
            check_neighbours(self.experiment, len(splits.train))
            return packed, splits

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not self.transferred:
                raise
            raise UserError(
                f"--transfer {self.name}: {_of_other_data(str(error), self.name)}"
            ) from None


def _of_other_data(sentence: str, name: str) -> str:
    """What is wrong with other data, with what can be done about it there: `data.class_names` and `--data` are the model's own."""
    where, nameless, _ = sentence.partition(" has no class names")
    if nameless:
        return f"{where}{nameless}; write them into classnames.txt beside tar shards, or into the schema of parquet files (a ClassLabel)"
    return sentence.replace("--data DIR", f"--transfer {name}=DIR")


def own_data(experiment: Experiment) -> Judged:
    """The model's own, called after its folder."""
    return Judged(
        _called(experiment.data.path) if experiment.data.path else experiment.data.source,
        experiment,
    )


def _called(path: str) -> str:
    """The last part of a place's name, also where it is `.` or ends in `..`; all of it where it has but one."""
    return Path(path if "://" in path else os.path.abspath(Path(path).expanduser())).name or path


def other_data(name: str, folder: str, experiment: Experiment, side: int, taken: str) -> Judged:
    """The same probes on other data, packed at the model's own size.

    Args:
        side: in px, of the model's images.
        taken: what the model's own data is called.

    Raises:
        UserError: they are called alike, so that a table could hold one of them only.
    """
    if name == taken:
        raise UserError(
            f"--transfer {name} is what the model's own data is called; give the other one another name"
        )
    values = {
        "data.source": "auto",
        "data.path": folder,
        "data.class_names": None,
        "data.train_images": None,
    }
    return Judged(
        name,
        with_values(experiment, values | {"data.image_size": side, "student.image_size": side}),
        True,
    )


# The table that `beamclip evaluate` prints: a row for each way a model was judged, on its own data and on others.


_NAMES = {"linear_probe": "linear probe", "knn": "k-NN", "zero_shot": "zero-shot"}


def probe_table(title: str, judged: Mapping[str, Evaluation]) -> Table:
    """Per cent; 95 % intervals are over test images, those of few-shot rows over draws.

    Args:
        judged: name of the data -> what was found on it.
    """
    table = Table("judged by", title=escape(title), title_justify="left", caption_justify="left")
    if any(key.startswith("few_shot/") for one in judged.values() for key in one.metrics):
        table.caption = (
            "95 %: over test images; of N-shot probes over draws of the N images a class"
        )
    for column in ("val", "test", "95 %", "top-5", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in judged.items():
        images = sum(row["images"] for row in one.details["linear_probe"]["per_class"])
        table.add_section()
        table.add_row(escape(f"{name}, {images:,} test images"))
        for row in _rows(one):
            table.add_row(*row)
    return table


def notes(judged: Mapping[str, Evaluation]) -> list[str]:
    """What was asked for and could not be done, on each of the data sets.

    Args:
        judged: name of the data -> what was found on it.
    """
    missing = (
        (name, one)
        for name, evaluation in judged.items()
        for one in evaluation.details["few_shot"]
        if one["note"]
    )
    return [
        f"{name}, {one['images_per_class']} images a class: left out, {one['note']}"
        for name, one in missing
    ]


def _rows(evaluation: Evaluation) -> Iterator[list[str]]:
    metrics = evaluation.metrics
    for key, name in _NAMES.items():
        if f"{key}/test_top1" in metrics:
            name = f"{name}, k = {metrics['knn/k']:.0f}" if key == "knn" else name
            yield [
                f"  {name}",
                _number(metrics, f"{key}/val_top1"),
                *_tested(metrics, f"{key}/test_top1"),
            ] + [_number(metrics, f"{key}/test_{one}") for one in ("top5", "ece")]
    for one in evaluation.details["few_shot"]:
        if not one["note"]:
            count = one["images_per_class"]
            yield [f"  {count}-shot probe", "", *_tested(metrics, f"few_shot/{count}_top1"), "", ""]


def _tested(metrics: Mapping[str, float], key: str) -> list[str]:
    low, high = (_number(metrics, f"{key}_{end}") for end in ("low", "high"))
    return [_number(metrics, key), f"{low}–{high}" if low else ""]


def _number(metrics: Mapping[str, float], key: str) -> str:
    return f"{metrics[key]:.2f}" if key in metrics else ""


@dataclass(frozen=True)
class Extras:
    """What `beamclip evaluate` may be asked for beside the probes of a sweep."""

    transfer: Mapping[str, str]
    """Name -> folder of further data sets, on which the frozen backbone is probed."""
    few_shot: bool = False
    """Also probe with 1, 2, 4, 8 and 16 images a class, unless `probe.few_shot` says others."""
    class_list: str | None = None
    """A file like `data.class_names`: zero-shot is scored with these names instead."""


def evaluate_model(
    model: str, untrained: bool, experiment: Experiment, extras: Extras | None = None
) -> dict[str, float]:
    """Probe a model on the experiment's data, print the table, and return the metrics (per cent).

    Args:
        model: path of a `student.safetensors`, `run:ID` of the MLflow run that trained it, or a timm name.
        untrained: a timm model with random weights instead of its pretrained ones.

    Returns:
        The metrics; those of other data sets as `transfer/NAME/…`.

    Raises:
        UserError: no such model, data or class list, or a class list for a model that does not embed where the teacher's texts are.
    """
    extras = extras or Extras({})
    check_writable(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ProgressBars() as bars, _as_typed(extras):
        student, projected = _load(
            model, untrained, experiment
        )  # first, since packing may take an hour
        experiment = _with_extras(experiment, extras, model, projected)
        own, side = own_data(experiment), student.spec.image_size
        others = [
            other_data(name, folder, experiment, side, own.name)
            for name, folder in extras.transfer.items()
        ]
        workshop = PreparationContext(stores_root(experiment), device, bars)
        if extras.class_list is not None:
            _check_width(student, experiment, workshop)
        opened = _opened([own, *others], workshop)
        anchors = _anchors(student, experiment, workshop, bars) if projected else None
        student = student.to(device)
        found = {
            one.name: _probed(student, one, opened[one.name], anchors if one is own else None, bars)
            for one in (own, *others)
        }
    console = Console()
    console.print(probe_table(f"{model}, untrained" if untrained else model, found))
    for note in notes(found):
        console.print(note, markup=False)
    more = {
        f"transfer/{one.name}/{key}": value
        for one in others
        for key, value in found[one.name].metrics.items()
    }
    return found[own.name].metrics | more


def _opened(
    judged: Sequence[Judged], workshop: PreparationContext
) -> dict[str, tuple[PackedImages, Splits]]:
    """All data, seen to be fit to be judged on before anything costly is done with any of it."""
    for one in judged:
        one.check(workshop)
    return {one.name: one.opened(workshop) for one in judged}


def _with_extras(experiment: Experiment, extras: Extras, model: str, projected: bool) -> Experiment:
    if extras.few_shot and not experiment.probe.few_shot:
        experiment = with_values(experiment, {"probe.few_shot": list(FEW_SHOT)})
    if extras.class_list is None:
        return experiment
    if not _is_ours(model):
        raise UserError(
            "--class-list is for zero-shot, which a timm model can't do; give a student.safetensors of ours or drop it"
        )
    if not projected:
        raise UserError(
            f"--class-list is for zero-shot, but {model} was never trained to embed where its teacher does; drop it"
        )
    return _with_names(experiment, extras.class_list)


def _with_names(experiment: Experiment, class_list: str) -> Experiment:
    """With the class list's names, and without pinned senses of names that it lacks: these were for the data's own."""
    known, vocabulary = (
        {normalize_name(name) for name in read_class_names(Path(class_list))},
        experiment.anchors.vocabulary,
    )
    if vocabulary != "data":
        known |= {normalize_name(one.name) for one in open_vocabulary(vocabulary)}
    pins = {
        name: pin
        for name, pin in experiment.anchors.senses.items()
        if normalize_name(name) in known
    }
    emptied = with_values(experiment, {"data.class_names": class_list, "anchors.senses": {}})
    return with_values(emptied, {"anchors.senses": pins})


def _check_width(student: Student, experiment: Experiment, workshop: PreparationContext) -> None:
    teacher, width = workshop.teacher(experiment.teacher), student.spec.width
    if teacher.width != width:
        raise UserError(
            f"--class-list is for zero-shot, but {teacher.name} (teacher.model) embeds in {teacher.width} numbers and the student in "
            f"{width}; set teacher.model to the one it was trained with, or drop --class-list"
        )


@contextmanager
def _as_typed(extras: Extras) -> Iterator[None]:
    """What is wrong with a class list is said of the option that was typed."""
    try:
        yield
    except UserError as error:
        raise (
            error
            if extras.class_list is None
            else UserError(str(error).replace("data.class_names", "--class-list"))
        ) from None


def _anchors(
    student: Student, experiment: Experiment, workshop: PreparationContext, bars: ProgressBars
) -> Tensor | None:
    """Of the data's own classes, or of the class list; None where the student lives in another space."""
    teacher = workshop.teacher(experiment.teacher)
    _, own = anchor_sets_of(experiment, workshop).own
    bank = AnchorSet.open(build_anchor_sets(teacher, [own], workshop.root, bars)[0])
    return bank.embeddings if bank.embeddings.shape[1] == student.spec.width else None


def _probed(
    student: Student,
    judged: Judged,
    opened: tuple[PackedImages, Splits],
    anchors: Tensor | None,
    bars: ProgressBars,
) -> Evaluation:
    config, device = judged.experiment.probe, next(student.parameters()).device
    pixels = student_pixels(student, student.spec.image_size)
    parts = evaluation_features(student, *opened, pixels, config, Context(device=device), bars)
    return evaluate(*parts, anchors, config)


def _is_ours(model: str) -> bool:
    return model.startswith("run:") or model.endswith(".safetensors")


def _load(model: str, untrained: bool, experiment: Experiment) -> tuple[Student, bool]:
    """The student, and whether it was trained to embed where its teacher does."""
    if untrained and _is_ours(model):
        raise UserError(
            f"--untrained is for timm names, and {model} is a trained student; drop it, or name the backbone"
        )
    if _is_ours(model):
        path = Path(fetched(model, experiment) if model.startswith("run:") else model)
        student, projected = load_student(path), was_projected(path)
        return student, _trained_by(
            model, experiment
        ).objective.needs.projected if projected is None else projected
    init = "random" if untrained else "pretrained"
    experiment = with_values(experiment, {"student.backbone": model, "student.init": init})
    return build_student(experiment.student, 1, experiment.seed), False


def _trained_by(model: str, experiment: Experiment) -> Experiment:
    """What a student's file of an earlier version does not say: its run's settings where they can be had, else those it is judged by."""
    here = {
        "storage.path": experiment.storage.path,
        "storage.cache": experiment.storage.cache,
        "tracking.uri": experiment.tracking.uri,
    }
    try:
        return (as_trained(model, here) if model.startswith("run:") else None) or experiment
    except UserError:  # settings of an earlier version, too, which --preset stands in for
        return experiment
