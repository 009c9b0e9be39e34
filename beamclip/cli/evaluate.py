"""`beamclip evaluate`: probe a trained student or any timm model, on its own data and on others.

The probes are those of a sweep. Everything runs in this process, without Ray.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from beamclip.anchors import AnchorSet, build_anchor_sets
from beamclip.anchors.wordnet import open_vocabulary
from beamclip.cli.options import experiment_from_options, overrides_from_options
from beamclip.config import FEW_SHOT, Experiment, UserError, with_values
from beamclip.data import PackedImages, Splits, read_class_names, split
from beamclip.data.class_names import normalize_name
from beamclip.evaluation import Evaluation, evaluate
from beamclip.preparation.anchors import plan_anchor_sets
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.teacher_passes import check_knn_neighbors
from beamclip.stores.paths import check_writable, stores_root
from beamclip.students import Student, build_student, load_student, projector_was_trained
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.student_init import experiment_of_run, fetch_student_of_run
from beamclip.training.context import Context
from beamclip.training.evaluate import evaluation_features, student_pixels

_RUN_PREFIX = "run:"


@dataclass(frozen=True)
class EvaluationExtras:
    """Evaluations in addition to the probes of a sweep.

    Attributes:
        transfer: name -> folder of other data sets to probe the frozen backbone on.
        few_shot: also probe with 1, 2, 4, 8 and 16 training images a class, or with the numbers of
            `probe.few_shot`.
        class_list: a file like `data.class_names`, whose names zero-shot uses instead.
    """

    transfer: Mapping[str, str] = field(default_factory=dict)
    few_shot: bool = False
    class_list: str | None = None


def run_evaluate(options: argparse.Namespace) -> None:
    """Evaluate a model; one named `run:ID` with the settings of its run."""
    extras = EvaluationExtras(
        _parse_transfer(options.transfer), options.few_shot, options.class_list
    )
    experiment = None
    if options.model.startswith(_RUN_PREFIX) and options.preset is None:
        experiment = experiment_of_run(options.model, overrides_from_options(options))
    experiment = experiment or experiment_from_options(options)
    evaluate_model(options.model, options.untrained, experiment, extras)


def _parse_transfer(items: Sequence[str]) -> dict[str, str]:
    """Return the folder of each data set given as NAME=DIR."""
    folders: dict[str, str] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise UserError(
                f"--transfer {item} is not NAME=DIR; write for example --transfer pets=/data/pets"
            )
        if name in folders:
            raise UserError(f"--transfer names {name} twice; give each data set its own name")
        folders[name] = folder
    return folders


def evaluate_model(
    model: str, untrained: bool, experiment: Experiment, extras: EvaluationExtras | None = None
) -> dict[str, float]:
    """Probe a model on the experiment's data and print a table.

    Args:
        model: path of a `student.safetensors`, `run:ID` of the MLflow run that trained one, or a
            timm name.
        untrained: for a timm name: use random weights instead of its pretrained ones.
        experiment: data, probes and storage.
        extras: what else to evaluate.

    Returns:
        The metrics in percent; those of other data sets are called `transfer/NAME/…`.

    Raises:
        UserError: there is no such model, data or class list; or a class list is given for a model
            whose embeddings are not in the space of the teacher's texts.
    """
    extras = extras or EvaluationExtras()
    check_writable(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ProgressBars() as bars, _class_list_errors(extras):
        # The model is loaded before images are packed, which may take an hour.
        loaded = _load_model(model, untrained, experiment)
        student = loaded.student
        experiment = _with_extras(experiment, extras, model, loaded)

        own = own_dataset(experiment)
        others = []
        for name, folder in extras.transfer.items():
            others.append(
                transfer_dataset(name, folder, experiment, student.spec.image_size, own.name)
            )
        context = PreparationContext(stores_root(experiment), device, bars)
        if extras.class_list is not None:
            _check_width(student, experiment, context)
        opened = _open_datasets([own, *others], context)

        anchors = None
        if loaded.embeds_like_teacher:
            anchors = _build_anchors(student, experiment, context, bars)
        student = student.to(device)
        evaluations = {own.name: _probe(student, own, opened[own.name], anchors, bars)}
        for dataset in others:
            evaluations[dataset.name] = _probe(student, dataset, opened[dataset.name], None, bars)

    console = Console()
    console.print(probe_table(f"{model}, untrained" if untrained else model, evaluations))
    for note in table_notes(evaluations):
        console.print(note, markup=False)
    metrics = dict(evaluations[own.name].metrics)
    for dataset in others:
        for key, value in evaluations[dataset.name].metrics.items():
            metrics[f"transfer/{dataset.name}/{key}"] = value
    return metrics


def _probe(
    student: Student,
    dataset: "EvaluationDataset",
    opened: tuple[PackedImages, Splits],
    anchors: Tensor | None,
    bars: ProgressBars,
) -> Evaluation:
    """Compute a data set's features and run all probes on them.

    Args:
        student: on its device.
        dataset: the data set.
        opened: its images and splits.
        anchors: for zero-shot, [K, D]; None: no zero-shot.
        bars: shows the progress.
    """
    config = dataset.experiment.probe
    context = Context(device=next(student.parameters()).device)
    pixels = student_pixels(student, student.spec.image_size)
    features = evaluation_features(student, *opened, pixels, config, context, bars)
    return evaluate(*features, anchors, config)


# The model.


@dataclass(frozen=True)
class _LoadedModel:
    """A model to evaluate.

    Attributes:
        student: the model.
        embeds_like_teacher: it was trained to embed images into its teacher's space, so that
            zero-shot makes sense.
    """

    student: Student
    embeds_like_teacher: bool


def _is_student(model: str) -> bool:
    """Return True for a student of beamclip, False for a timm name."""
    return model.startswith(_RUN_PREFIX) or model.endswith(".safetensors")


def _load_model(model: str, untrained: bool, experiment: Experiment) -> _LoadedModel:
    if not _is_student(model):
        init = "random" if untrained else "pretrained"
        experiment = with_values(experiment, {"student.backbone": model, "student.init": init})
        # No probe uses the embeddings of a timm model, so their width does not matter.
        student = build_student(experiment.student, 1, experiment.seed)
        return _LoadedModel(student, embeds_like_teacher=False)
    if untrained:
        raise UserError(
            f"--untrained is for timm names, and {model} is a trained student; "
            "drop it, or name the backbone"
        )
    path = Path(model)
    if model.startswith(_RUN_PREFIX):
        path = Path(fetch_student_of_run(model, experiment))
    student = load_student(path)
    projected = projector_was_trained(path)
    if projected is None:
        projected = _training_experiment(model, experiment).objective.requirements.projected
    return _LoadedModel(student, projected)


def _training_experiment(model: str, experiment: Experiment) -> Experiment:
    """Return the settings that a student was trained with, for files of older versions.

    They are those of its run if they can be read, else those it is evaluated with.
    """
    if not model.startswith(_RUN_PREFIX):
        return experiment
    places = {
        "storage.path": experiment.storage.path,
        "storage.cache": experiment.storage.cache,
        "tracking.uri": experiment.tracking.uri,
    }
    try:
        return experiment_of_run(model, places) or experiment
    except UserError:
        # The run's settings may be of an older version, too; --preset replaces them.
        return experiment


# Extras: few-shot probes and class lists.


def _with_extras(
    experiment: Experiment, extras: EvaluationExtras, model: str, loaded: _LoadedModel
) -> Experiment:
    """Return the experiment with few-shot probes and the class list's names."""
    if extras.few_shot and not experiment.probe.few_shot:
        experiment = with_values(experiment, {"probe.few_shot": list(FEW_SHOT)})
    if extras.class_list is None:
        return experiment
    if not _is_student(model):
        raise UserError(
            "--class-list is for zero-shot, which a timm model can't do; "
            "give a student.safetensors of beamclip or drop it"
        )
    if not loaded.embeds_like_teacher:
        raise UserError(
            f"--class-list is for zero-shot, but {model} was not trained to embed images into "
            "its teacher's space; drop it"
        )
    return _with_class_list(experiment, extras.class_list)


def _with_class_list(experiment: Experiment, class_list: str) -> Experiment:
    """Return the experiment with the class list's names.

    Pinned senses of names that are not in the list are dropped: they were for the data's own names.
    """
    known_names = {normalize_name(name) for name in read_class_names(Path(class_list))}
    vocabulary = experiment.anchors.vocabulary
    if vocabulary != "data":
        known_names |= {normalize_name(entry.name) for entry in open_vocabulary(vocabulary)}
    pins = {}
    for name, sense in experiment.anchors.senses.items():
        if normalize_name(name) in known_names:
            pins[name] = sense
    # A mapping is merged with the present one, so it is emptied first.
    without_pins = with_values(experiment, {"data.class_names": class_list, "anchors.senses": {}})
    return with_values(without_pins, {"anchors.senses": pins})


def _check_width(student: Student, experiment: Experiment, context: PreparationContext) -> None:
    """Raise UserError if the student's embeddings are not as wide as the teacher's."""
    teacher = context.teacher(experiment.teacher)
    width = student.spec.width
    if teacher.width != width:
        raise UserError(
            f"--class-list is for zero-shot, but embeddings of {teacher.name} (teacher.model) have "
            f"{teacher.width} numbers and those of the student {width}; set teacher.model to the "
            "one it was trained with, or drop --class-list"
        )


@contextmanager
def _class_list_errors(extras: EvaluationExtras) -> Iterator[None]:
    """Let errors about `data.class_names` name --class-list, which the user typed."""
    try:
        yield
    except UserError as error:
        if extras.class_list is None:
            raise
        raise UserError(str(error).replace("data.class_names", "--class-list")) from None


def _build_anchors(
    student: Student, experiment: Experiment, context: PreparationContext, bars: ProgressBars
) -> Tensor | None:
    """Return the anchors of the data's own classes or of the class list, [K, D].

    None if the student's embeddings have another width than the teacher's.
    """
    teacher = context.teacher(experiment.teacher)
    _, plan = plan_anchor_sets(experiment, context).own
    (store,) = build_anchor_sets(teacher, [plan], context.root, bars)
    anchors = AnchorSet.open(store).embeddings
    return anchors if anchors.shape[1] == student.spec.width else None


# The data sets.


@dataclass(frozen=True)
class EvaluationDataset:
    """One data set to evaluate on.

    Attributes:
        name: what it is called in the table.
        experiment: its `data` and `probe` settings.
        is_transfer: True if `--transfer` named it, False if it is the model's own.
    """

    name: str
    experiment: Experiment
    is_transfer: bool = False

    def check(self, context: PreparationContext) -> None:
        """Check the data as far as possible without reading an image.

        Raises:
            UserError: there is no such data, or too little of it.
        """
        with self._errors_name_transfer():
            available = context.source(self.experiment.data).count("train")
            images = self.experiment.data.train_images or available
            if images > available:
                raise UserError(
                    f"data.train_images is {images} but the data has only {available} train "
                    "images; lower it"
                )
            check_knn_neighbors(self.experiment, images)

    def open(self, context: PreparationContext) -> tuple[PackedImages, Splits]:
        """Pack the images if needed, and split them.

        Raises:
            UserError: they can't be packed or split, or there are fewer train images than
                neighbors.
        """
        with self._errors_name_transfer():
            packed = context.packed(self.experiment.data)
            splits = split(packed, self.experiment.data)
            check_knn_neighbors(self.experiment, len(splits.train))
            return packed, splits

    @contextmanager
    def _errors_name_transfer(self) -> Iterator[None]:
        """Let errors about other data name the --transfer option."""
        try:
            yield
        except UserError as error:
            if not self.is_transfer:
                raise
            message = _message_for_transfer(str(error), self.name)
            raise UserError(f"--transfer {self.name}: {message}") from None


def _message_for_transfer(message: str, name: str) -> str:
    """Reword advice of an error: `data.class_names` and --data are for the model's own data."""
    subject, no_names, _ = message.partition(" has no class names")
    if no_names:
        return (
            f"{subject}{no_names}; write them into classnames.txt next to tar shards, or into the "
            "schema of parquet files (a ClassLabel)"
        )
    return message.replace("--data DIR", f"--transfer {name}=DIR")


def own_dataset(experiment: Experiment) -> EvaluationDataset:
    """Return the model's own data set, called like its folder."""
    path = experiment.data.path
    return EvaluationDataset(_folder_name(path) if path else experiment.data.source, experiment)


def _folder_name(path: str) -> str:
    """Return the last part of a path or URL, also of `.` and `..`; of "/" the whole."""
    if "://" not in path:
        path = os.path.abspath(Path(path).expanduser())
    return Path(path).name or path


def transfer_dataset(
    name: str, folder: str, experiment: Experiment, image_size: int, own_name: str
) -> EvaluationDataset:
    """Return another data set with the same probes.

    Args:
        name: what to call it.
        folder: where its images are.
        experiment: the settings of the model's own data set.
        image_size: side of the model's images in px; the images are packed at this size.
        own_name: name of the model's own data set.

    Raises:
        UserError: both have the same name, so that the table could show only one.
    """
    if name == own_name:
        raise UserError(
            f"--transfer {name} has the name of the model's own data; choose another name"
        )
    values = {
        "data.source": "auto",
        "data.path": folder,
        "data.class_names": None,
        "data.train_images": None,
        "data.image_size": image_size,
        "student.image_size": image_size,
    }
    return EvaluationDataset(name, with_values(experiment, values), is_transfer=True)


def _open_datasets(
    datasets: Sequence[EvaluationDataset], context: PreparationContext
) -> dict[str, tuple[PackedImages, Splits]]:
    """Return images and splits of each data set, after all of them have been checked."""
    for dataset in datasets:
        dataset.check(context)
    return {dataset.name: dataset.open(context) for dataset in datasets}


# The table.

_PROBE_NAMES = {"linear_probe": "linear probe", "knn": "k-NN", "zero_shot": "zero-shot"}


def probe_table(title: str, evaluations: Mapping[str, Evaluation]) -> Table:
    """Return the table of results: a row for each probe on each data set, in percent.

    Args:
        title: names the model.
        evaluations: name of the data set -> its results.
    """
    table = Table("probe", title=escape(title), title_justify="left", caption_justify="left")
    for column in ("val", "test", "95 %", "top-5", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    has_few_shot = False
    for name, evaluation in evaluations.items():
        test_images = sum(row["images"] for row in evaluation.details["linear_probe"]["per_class"])
        table.add_section()
        table.add_row(escape(f"{name}, {test_images:,} test images"))
        for row in _probe_rows(evaluation):
            table.add_row(*row)
        has_few_shot |= any(key.startswith("few_shot/") for key in evaluation.metrics)
    if has_few_shot:
        table.caption = (
            "95 %: over test images; of N-shot probes over draws of the N images a class"
        )
    return table


def _probe_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield a row for each probe: name, val, test, interval, top-5, ECE."""
    metrics = evaluation.metrics
    for key, name in _PROBE_NAMES.items():
        if f"{key}/test_top1" not in metrics:
            continue
        if key == "knn":
            name = f"{name}, k = {metrics['knn/k']:.0f}"
        yield [
            f"  {name}",
            _format(metrics, f"{key}/val_top1"),
            _format(metrics, f"{key}/test_top1"),
            _format_interval(metrics, f"{key}/test_top1"),
            _format(metrics, f"{key}/test_top5"),
            _format(metrics, f"{key}/test_ece"),
        ]
    for few_shot in evaluation.details["few_shot"]:
        if few_shot["note"]:
            continue
        key = f"few_shot/{few_shot['images_per_class']}_top1"
        name = f"  {few_shot['images_per_class']}-shot probe"
        yield [name, "", _format(metrics, key), _format_interval(metrics, key), "", ""]


def _format(metrics: Mapping[str, float], key: str) -> str:
    return f"{metrics[key]:.2f}" if key in metrics else ""


def _format_interval(metrics: Mapping[str, float], key: str) -> str:
    low = _format(metrics, f"{key}_low")
    high = _format(metrics, f"{key}_high")
    return f"{low}–{high}" if low else ""


def table_notes(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a sentence for each few-shot probe that could not be run.

    Args:
        evaluations: name of the data set -> its results.
    """
    notes = []
    for name, evaluation in evaluations.items():
        for few_shot in evaluation.details["few_shot"]:
            if few_shot["note"]:
                shots = few_shot["images_per_class"]
                notes.append(f"{name}, {shots} images a class: left out, {few_shot['note']}")
    return notes
