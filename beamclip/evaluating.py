"""`beamclip evaluate`: the probes of a sweep, on any checkpoint of ours or any timm model, without Ray, and on other data too."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from beamclip.anchors import AnchorBank, build_banks
from beamclip.config import FEW_SHOT, Experiment, UserError, with_values
from beamclip.console import Bars
from beamclip.data import PackedImages, Splits
from beamclip.evaluation import Evaluation, evaluate
from beamclip.judged import Judged, other_data, own_data
from beamclip.probe_table import notes, probe_table
from beamclip.starts import fetched
from beamclip.storage import check_writable, stores_root
from beamclip.students import Student, build_student, load_student
from beamclip.training.banks import banks_of
from beamclip.training.context import Context
from beamclip.training.probing import evaluation_features, student_pixels
from beamclip.training.workshop import Workshop


@dataclass(frozen=True)
class Extras:
    """What `beamclip evaluate` may be asked for beside the probes of a sweep."""

    transfer: Mapping[str, str]
    """Name -> folder of further data sets, on which the frozen backbone is probed."""
    few_shot: bool = False
    """Also probe with 1, 2, 4, 8 and 16 images a class, unless `probe.few_shot` says others."""
    class_list: str | None = None
    """A file like `data.class_names`: zero-shot is scored with these names instead."""


def evaluate_model(model: str, untrained: bool, experiment: Experiment, extras: Extras | None = None) -> dict[str, float]:
    """Probe a model on the experiment's data, print the table, and return the metrics (per cent).

    Args:
        model: path of a `student.safetensors`, `run:ID` of the MLflow run that trained it, or a timm name.
        untrained: a timm model with random weights instead of its pretrained ones.

    Returns:
        The metrics; those of other data sets as `transfer/NAME/…`.

    Raises:
        UserError: no such model, data or class list, or a class list for a model that knows no text anchors.
    """
    extras = extras or Extras({})
    check_writable(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Bars() as bars:
        student, is_ours = _load(model, untrained, experiment)  # first, since packing may take an hour
        experiment = _with_extras(experiment, extras, is_ours)
        own, side = own_data(experiment), student.spec.image_size
        others = [other_data(name, folder, experiment, side, own.name) for name, folder in extras.transfer.items()]
        workshop = Workshop(stores_root(experiment), device, bars)
        opened = _opened([own, *others], workshop)
        with _as_typed(extras):
            anchors = _anchors(student, experiment, workshop, bars) if is_ours else None
        student = student.to(device)
        found = {one.name: _probed(student, one, opened[one.name], anchors if one is own else None, bars) for one in (own, *others)}
    console = Console()
    console.print(probe_table(f"{model}, untrained" if untrained else model, found))
    for note in notes(found[own.name]):
        console.print(note, markup=False)
    more = {f"transfer/{one.name}/{key}": value for one in others for key, value in found[one.name].metrics.items()}
    return found[own.name].metrics | more


def _opened(judged: Sequence[Judged], workshop: Workshop) -> dict[str, tuple[PackedImages, Splits]]:
    """All data, seen to be fit to be judged on before anything costly is done with any of it."""
    for one in judged:
        one.check(workshop)
    return {one.name: one.opened(workshop) for one in judged}


def _with_extras(experiment: Experiment, extras: Extras, is_ours: bool) -> Experiment:
    values: dict[str, object] = {}
    if extras.few_shot and not experiment.probe.few_shot:
        values["probe.few_shot"] = list(FEW_SHOT)
    if extras.class_list is not None:
        if not is_ours:
            raise UserError("--class-list is for zero-shot, which a timm model can't do; give a student.safetensors of ours or drop it")
        values["data.class_names"] = extras.class_list
    return with_values(experiment, values)


@contextmanager
def _as_typed(extras: Extras) -> Iterator[None]:
    """What is wrong with a class list is said of the option that was typed."""
    try:
        yield
    except UserError as error:
        raise error if extras.class_list is None else UserError(str(error).replace("data.class_names", "--class-list")) from None


def _anchors(student: Student, experiment: Experiment, workshop: Workshop, bars: Bars) -> Tensor | None:
    """Of the data's own classes, or of the class list; None where the student lives in another space."""
    teacher = workshop.teacher(experiment.teacher)
    _, own = banks_of(experiment, workshop).own
    bank = AnchorBank.open(build_banks(teacher, [own], workshop.root, bars)[0])
    return bank.embeddings if bank.embeddings.shape[1] == student.spec.width else None


def _probed(student: Student, judged: Judged, opened: tuple[PackedImages, Splits], anchors: Tensor | None, bars: Bars) -> Evaluation:
    config, device = judged.experiment.probe, next(student.parameters()).device
    pixels = student_pixels(student, student.spec.image_size)
    parts = evaluation_features(student, *opened, pixels, config, Context(device=device), bars)
    return evaluate(*parts, anchors, config)


def _load(model: str, untrained: bool, experiment: Experiment) -> tuple[Student, bool]:
    if untrained and (model.startswith("run:") or model.endswith(".safetensors")):
        raise UserError(f"--untrained is for timm names, and {model} is a trained student; drop it, or name the backbone")
    if model.startswith("run:"):
        model = fetched(model, experiment)
    if model.endswith(".safetensors"):
        return load_student(Path(model)), True
    init = "random" if untrained else "pretrained"
    experiment = with_values(experiment, {"student.backbone": model, "student.init": init})
    return build_student(experiment.student, 1, experiment.seed), False
