"""`beamclip evaluate`: probe a trained student or any timm model, on its own and on other data.

The probes are the same as in a sweep. Everything runs in this process, without Ray.
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
# Files of weights that users have. The names of timm's weights end otherwise.
_FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".npz", ".pkl", ".onnx")


@dataclass(frozen=True)
class EvaluationExtras:
    """What to evaluate in addition to the probes of a sweep.

    Attributes:
        transfer: name -> folder of other data sets to probe the frozen backbone on.
        few_shot: also run few-shot probes, with the numbers of images in `probe.few_shot` if it is
            set, else with 1, 2, 4, 8 and 16 training images per class.
        class_list: file of class names for zero-shot, in the format of `data.class_names`; default
            the data's own names.
    """

    transfer: Mapping[str, str] = field(default_factory=dict)
    few_shot: bool = False
    class_list: str | None = None


def run_evaluate(options: argparse.Namespace) -> None:
    """Evaluate a model. `run:ID` is evaluated with the settings of its run, if it has any."""
    extras = EvaluationExtras(
        _parse_transfer(options.transfer), options.few_shot, options.class_list
    )
    experiment = None
    # A preset replaces the run's settings.
    if options.model.startswith(_RUN_PREFIX) and options.preset is None:
        experiment = experiment_of_run(options.model, overrides_from_options(options))
    experiment = experiment or experiment_from_options(options)
    evaluate_model(options.model, options.untrained, experiment, extras)


def _parse_transfer(items: Sequence[str]) -> dict[str, str]:
    """Return the folder of each data set given as NAME=DIR, by its name.

    Raises:
        UserError: an item has another form, or two items have the same name.
    """
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
        extras: what else to evaluate; default nothing.

    Returns:
        Metric -> value. Metrics on a transfer data set begin with `transfer/NAME/`.

    Raises:
        UserError: there is no such model, data or class list; or a class list is given for a model
            whose embeddings are not in the space of the teacher's texts.
    """
    extras = extras or EvaluationExtras()
    check_writable(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ProgressBars() as bars, _class_list_errors(extras):
        # Load the model first: packing images may take an hour, and a mistyped name of a model
        # must not be reported after it.
        loaded = _load_model(model, untrained, experiment)
        student = loaded.student
        experiment = _with_extras(experiment, extras, model, loaded)

        own_data = own_dataset(experiment)
        image_size = student.spec.image_size
        transfer_data = [
            transfer_dataset(name, folder, experiment, image_size, own_data.name)
            for name, folder in extras.transfer.items()
        ]
        context = PreparationContext(stores_root(experiment), device, bars)
        if extras.class_list is not None:
            _check_width(student, experiment, context)

        # For the same reason, check all data sets before the first is packed, and pack all of them
        # before the first is probed.
        datasets = [own_data, *transfer_data]
        for dataset in datasets:
            dataset.check(context)
        images = {dataset.name: dataset.open(context) for dataset in datasets}

        anchors = None
        if loaded.embeds_like_teacher:
            anchors = _build_anchors(student, experiment, context, bars)
        student = student.to(device)
        evaluations = {}
        for dataset in datasets:
            # The anchors are of the model's own classes, so other data get no zero-shot.
            dataset_anchors = None if dataset.is_transfer else anchors
            evaluations[dataset.name] = _probe(
                student, dataset, images[dataset.name], dataset_anchors, bars
            )

    console = Console()
    console.print(probe_table(f"{model}, untrained" if untrained else model, evaluations))
    for note in table_notes(evaluations):
        console.print(note, markup=False)
    metrics = dict(evaluations[own_data.name].metrics)
    for dataset in transfer_data:
        for key, value in evaluations[dataset.name].metrics.items():
            metrics[f"transfer/{dataset.name}/{key}"] = value
    return metrics


def _probe(
    student: Student,
    dataset: "EvaluationDataset",
    images: tuple[PackedImages, Splits],
    anchors: Tensor | None,
    bars: ProgressBars,
) -> Evaluation:
    """Compute a data set's features and run all probes on them.

    Args:
        student: on its device.
        dataset: its `probe` settings are used.
        images: the data set's packed images and their splits.
        anchors: the anchors for zero-shot, [K, D]; None to skip zero-shot.
        bars: shows the progress.
    """
    config = dataset.experiment.probe
    context = Context(device=next(student.parameters()).device)
    pixels = student_pixels(student, student.spec.image_size)
    features = evaluation_features(student, *images, pixels, config, context, bars)
    return evaluate(*features, anchors, config)


# --- The model ---


@dataclass(frozen=True)
class _LoadedModel:
    """A model to evaluate.

    Attributes:
        student: the model.
        embeds_like_teacher: whether it was trained to embed images into its teacher's space;
            zero-shot only makes sense then.
    """

    student: Student
    embeds_like_teacher: bool


def _is_student(model: str) -> bool:
    """Return whether `model` names a student of beamclip, by file or by run, or a timm model.

    Files of other kinds count too, so that the message about them says what they are.
    """
    if model.startswith((_RUN_PREFIX, "/", "./", "../", "~")):
        return True
    if model.endswith(_FILE_ENDINGS):
        return True
    # A folder of the working directory may have the name of a timm model, which has no slash.
    return "/" in model and Path(model).exists()


def _load_model(model: str, untrained: bool, experiment: Experiment) -> _LoadedModel:
    """Load a student's file, download the student of a run, or create a timm model.

    Raises:
        UserError: there is no such model, or `untrained` is given for a trained student.
    """
    if not _is_student(model):
        init = "random" if untrained else "pretrained"
        experiment = with_values(experiment, {"student.backbone": model, "student.init": init})
        # No probe uses the embeddings of a timm model, so any width works.
        student = build_student(experiment.student, 1, experiment.seed)
        return _LoadedModel(student, embeds_like_teacher=False)
    if untrained:
        raise UserError(
            f"--untrained is for timm names, and {model} is a trained student; "
            "drop it, or name the backbone"
        )
    path = Path(model).expanduser()
    if model.startswith(_RUN_PREFIX):
        path = Path(fetch_student_of_run(model, experiment))
    student = load_student(path)
    projected = projector_was_trained(path)
    # Files of older versions don't record it, but the objective of the training tells.
    if projected is None:
        projected = _training_experiment(model, experiment).objective.requirements.projected
    return _LoadedModel(student, projected)


def _training_experiment(model: str, experiment: Experiment) -> Experiment:
    """Return the settings that a student was trained with: those of its run.

    Without a run, or if its settings can't be read, `experiment` is the best guess.
    """
    if not model.startswith(_RUN_PREFIX):
        return experiment
    locations = {
        "storage.path": experiment.storage.path,
        "storage.cache": experiment.storage.cache,
        "tracking.uri": experiment.tracking.uri,
    }
    try:
        return experiment_of_run(model, locations) or experiment
    except UserError:
        # An older version may have written settings that are no longer valid. Users get past that
        # error with --preset, so it must not stop them here.
        return experiment


# --- Extras: few-shot probes and class lists ---


def _with_extras(
    experiment: Experiment, extras: EvaluationExtras, model: str, loaded: _LoadedModel
) -> Experiment:
    """Return the experiment with few-shot probes and the names of the class list.

    Raises:
        UserError: a class list is given for a model that can't do zero-shot.
    """
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
    """Return the experiment with the names of the class list.

    Pins of names that are not in the list are dropped. They were meant for the data's own names,
    and a pin of a name that is not a class is an error.
    """
    known_names = {normalize_name(name) for name in read_class_names(Path(class_list))}
    vocabulary = experiment.anchors.vocabulary
    if vocabulary != "data":
        known_names |= {normalize_name(entry.name) for entry in open_vocabulary(vocabulary)}
    pins = {}
    for name, sense in experiment.anchors.senses.items():
        if normalize_name(name) in known_names:
            pins[name] = sense
    # `with_values` merges mappings, so the old pins are removed first.
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
    """Replace `data.class_names` in errors by --class-list, which is what the user typed."""
    try:
        yield
    except UserError as error:
        if extras.class_list is None:
            raise
        raise UserError(str(error).replace("data.class_names", "--class-list")) from None


def _build_anchors(
    student: Student, experiment: Experiment, context: PreparationContext, bars: ProgressBars
) -> Tensor | None:
    """Build the anchors of the data's own classes, or of the class list.

    Returns:
        [K, D]; None if D is not the width of the student's embeddings, which then are in the space
        of another teacher.
    """
    teacher = context.teacher(experiment.teacher)
    _, plan = plan_anchor_sets(experiment, context).own
    (store,) = build_anchor_sets(teacher, [plan], context.root, bars)
    anchors = AnchorSet.open(store).embeddings
    return anchors if anchors.shape[1] == student.spec.width else None


# --- The data sets ---


@dataclass(frozen=True)
class EvaluationDataset:
    """One data set to evaluate on.

    Attributes:
        name: its name in the table.
        experiment: its `data` and `probe` settings.
        is_transfer: True if it was given with --transfer, False for the model's own data.
    """

    name: str
    experiment: Experiment
    is_transfer: bool = False

    def check(self, context: PreparationContext) -> None:
        """Check the data as far as possible without reading an image.

        Raises:
            UserError: the data doesn't exist, or has too few images.
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
        """Pack the images if they are not packed yet, and split them.

        Raises:
            UserError: the images can't be packed or split, or k-NN asks for more neighbors than
                there are train images.
        """
        with self._errors_name_transfer():
            packed = context.packed(self.experiment.data)
            splits = split(packed, self.experiment.data)
            # Check again: without val and unreadable images, train is smaller now.
            check_knn_neighbors(self.experiment, len(splits.train))
            return packed, splits

    @contextmanager
    def _errors_name_transfer(self) -> Iterator[None]:
        """Name the --transfer option in errors about transfer data."""
        try:
            yield
        except UserError as error:
            if not self.is_transfer:
                raise
            message = _message_for_transfer(str(error), self.name)
            raise UserError(f"--transfer {self.name}: {message}") from None


def _message_for_transfer(message: str, name: str) -> str:
    """Reword the advice of an error, which names settings and options of the model's own data."""
    # `data.class_names` would name the classes of the model's own data.
    subject, no_names, _ = message.partition(" has no class names")
    if no_names:
        return (
            f"{subject}{no_names}; write them into classnames.txt next to tar shards, or into the "
            "schema of parquet files (a ClassLabel)"
        )
    return message.replace("--data DIR", f"--transfer {name}=DIR")


def own_dataset(experiment: Experiment) -> EvaluationDataset:
    """Return the model's own data set. Its name is the name of its folder, or its source."""
    path = experiment.data.path
    return EvaluationDataset(_folder_name(path) if path else experiment.data.source, experiment)


def _folder_name(path: str) -> str:
    """Return the last part of a path or URL. `.` and `..` are resolved, "/" stays as it is."""
    if "://" not in path:
        # Not `resolve`: a symlink keeps the name that the user gave it.
        path = os.path.abspath(Path(path).expanduser())
    return Path(path).name or path


def transfer_dataset(
    name: str, folder: str, experiment: Experiment, image_size: int, own_name: str
) -> EvaluationDataset:
    """Return another data set, to be probed in the same way as the model's own.

    Args:
        name: its name in the table.
        folder: where its images are.
        experiment: the settings of the model's own data set.
        image_size: side of the model's input in px; the images are packed at this size.
        own_name: name of the model's own data set.

    Raises:
        UserError: `name` is `own_name`; results are kept by name.
    """
    if name == own_name:
        raise UserError(
            f"--transfer {name} has the name of the model's own data; choose another name"
        )
    values = {
        "data.source": "auto",
        "data.path": folder,
        # These describe the model's own data.
        "data.class_names": None,
        "data.train_images": None,
        "data.image_size": image_size,
        "student.image_size": image_size,
    }
    return EvaluationDataset(name, with_values(experiment, values), is_transfer=True)


# --- The table ---

_PROBE_NAMES = {"linear_probe": "linear probe", "knn": "k-NN", "zero_shot": "zero-shot"}


def probe_table(title: str, evaluations: Mapping[str, Evaluation]) -> Table:
    """Return the table of results in percent, with one section per data set and one row per probe.

    Args:
        title: title of the table: the model.
        evaluations: name of the data set -> its results.
    """
    table = Table("probe", title=escape(title), title_justify="left", caption_justify="left")
    for column in ("val", "test", "95 %", "top-5", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    has_few_shot = False
    for name, evaluation in evaluations.items():
        per_class = evaluation.details["linear_probe"]["per_class"]
        test_images = sum(row["images"] for row in per_class)
        table.add_section()
        table.add_row(escape(f"{name}, {test_images:,} test images"))
        for row in _probe_rows(evaluation):
            table.add_row(*row)
        has_few_shot |= any(key.startswith("few_shot/") for key in evaluation.metrics)
    if has_few_shot:
        table.caption = (
            "95 % intervals are over test images; those of N-shot probes over draws of the N "
            "images per class"
        )
    return table


def _probe_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """Yield the cells of a row for each probe that was run: name, val, test, 95 %, top-5, ECE."""
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
        # Not run; `table_notes` gives the reason.
        if few_shot["note"]:
            continue
        key = f"few_shot/{few_shot['images_per_class']}_top1"
        name = f"  {few_shot['images_per_class']}-shot probe"
        yield [name, "", _format(metrics, key), _format_interval(metrics, key), "", ""]


def _format(metrics: Mapping[str, float], key: str) -> str:
    """Return a metric with two decimals; an empty cell if it was not measured."""
    return f"{metrics[key]:.2f}" if key in metrics else ""


def _format_interval(metrics: Mapping[str, float], key: str) -> str:
    """Return an interval such as "61.20–63.05"; an empty cell if it was not measured."""
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
                notes.append(f"{name}, {shots} images per class: left out, {few_shot['note']}")
    return notes
