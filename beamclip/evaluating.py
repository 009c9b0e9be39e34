"""`beamclip evaluate`: the probes of a sweep, on any checkpoint of ours or any timm model, without Ray."""

import torch
from rich.console import Console
from rich.table import Table

from beamclip.anchors import AnchorBank, build_banks
from beamclip.config import Experiment, with_values
from beamclip.console import Bars
from beamclip.data import split
from beamclip.evaluation import evaluate
from beamclip.storage import check_writable, stores_root
from beamclip.students import Student, build_student, load_student
from beamclip.training.banks import banks_of
from beamclip.training.context import Context
from beamclip.training.probing import evaluation_features, student_pixels
from beamclip.training.workshop import Workshop


def evaluate_model(model: str, untrained: bool, experiment: Experiment) -> dict[str, float]:
    """Probe a model on the experiment's data, print the table, and return the metrics (per cent).

    Args:
        model: path of a `student.safetensors`, or a timm name.
        untrained: a timm model with random weights instead of its pretrained ones.

    Raises:
        UserError: no such model, or its embeddings don't fit the teacher's anchors.
    """
    check_writable(experiment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Bars() as bars:
        student, is_ours = _load(model, untrained, experiment)  # first, since packing may take an hour
        workshop = Workshop(stores_root(experiment), device, bars)
        packed = workshop.packed(experiment.data)
        splits = split(packed, experiment.data)
        anchors = None
        if is_ours:
            teacher = workshop.teacher(experiment.teacher)
            _, own = banks_of(experiment, workshop).own
            bank = AnchorBank.open(build_banks(teacher, [own], workshop.root, bars)[0])
            anchors = bank.embeddings.to(device) if bank.embeddings.shape[1] == student.spec.width else None
        pixels = student_pixels(student, student.spec.image_size)
        parts = evaluation_features(student.to(device), packed, splits, pixels, experiment.probe, Context(device=device), bars)
    metrics = evaluate(*parts, anchors, experiment.probe).metrics
    _print(model, metrics)
    return metrics


def _load(model: str, untrained: bool, experiment: Experiment) -> tuple[Student, bool]:
    if model.endswith(".safetensors"):
        from pathlib import Path

        return load_student(Path(model)), True
    init = "random" if untrained else "pretrained"
    experiment = with_values(experiment, {"student.backbone": model, "student.init": init})
    return build_student(experiment.student, 1, experiment.seed), False


def _print(model: str, metrics: dict[str, float]) -> None:
    table = Table("metric", "value", title=model, title_justify="left")
    for key, value in metrics.items():
        table.add_row(key, f"{value:.2f}")
    Console().print(table)
