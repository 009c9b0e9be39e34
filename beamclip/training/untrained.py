"""The student with random weights, probed like any other: what a trained one has to beat."""

from pathlib import Path
from typing import Any

import torch

from beamclip.config import Experiment, StudentConfig, with_values
from beamclip.stores import build_once
from beamclip.students import build_student
from beamclip.training.assets import Assets, open_assets
from beamclip.training.context import Context
from beamclip.training.probing import probe_student, student_pixels


def untrained_metrics(experiment: Experiment, assets: Assets, root: Path, device: torch.device) -> dict[str, float]:
    """Metrics of the student with random weights, whatever its own would start from; computed once and kept."""
    experiment = with_values(experiment, {"student.init": "random", "student.small_image_stem": _stem(experiment.student)})
    keys = [Path(path).name for path in (assets.packed, assets.classes)]
    sections = experiment.model_dump(mode="json", include={"student", "probe", "data", "seed"})

    def build(folder: Path) -> dict[str, Any]:
        opened = open_assets(assets, experiment.data)
        student = build_student(experiment.student, opened.width, experiment.seed).to(device)
        pixels = student_pixels(student, experiment.student.image_size)
        evaluation = probe_student(student, opened, pixels, experiment.probe, Context(device=device))
        assert evaluation is not None
        return {"metrics": evaluation.metrics}

    metrics: dict[str, float] = build_once(root, "untrained", {"stores": keys, **sections}, build).manifest["metrics"]
    return metrics


def _stem(student: StudentConfig) -> str:
    """timm's weights keep their own stem at any side, where random ones may not."""
    return "never" if student.init == "pretrained" and student.small_image_stem == "auto" else student.small_image_stem
