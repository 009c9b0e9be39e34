"""The student as it stands before training, probed like any other: what a trained one has to beat."""

from pathlib import Path
from typing import Any

import torch

from beamclip.config import Experiment
from beamclip.stores import build_once
from beamclip.students import build_student
from beamclip.training.assets import Assets, open_assets
from beamclip.training.context import Context
from beamclip.training.probing import probe_student, student_pixels


def untrained_metrics(experiment: Experiment, assets: Assets, root: Path, device: torch.device) -> dict[str, float]:
    """Metrics of the initialised, untrained student, computed once and kept."""
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
