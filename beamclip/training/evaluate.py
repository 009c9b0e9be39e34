"""The student with random weights, probed like any other: what a trained one has to beat."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beamclip.config import RECIPES, Experiment, ProbeConfig, StudentConfig, with_values
from beamclip.data import PackedImages, Splits, draw, even_subset
from beamclip.data.augmentation.render import PixelFormat, render
from beamclip.evaluation import Evaluation, LabelledFeatures, evaluate, extract
from beamclip.preparation.assets import Assets, OpenAssets, open_assets
from beamclip.stores import Progress, build_once, silent
from beamclip.students import Student, build_student
from beamclip.training.context import Context
from beamclip.training.dataloader import Ids

# Evaluating a student: features of train, val and test once, shared out over the workers, then the probes.


_BATCH = 256


def student_pixels(student: Student, size: int) -> PixelFormat:
    """What this student wants to be fed at this side in px."""
    mean, std = student.normalisation
    return PixelFormat(size, mean, std, "bilinear")


def center_views(
    packed: PackedImages, ids: Ids, pixels: PixelFormat, device: torch.device
) -> Iterator[Tensor]:
    """The canonical view of these samples in order, [≤256, 3, S, S] a batch."""
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        images = torch.from_numpy(packed.read(batch)).to(device)
        yield render(
            images, draw(RECIPES["center"], batch, np.zeros(len(batch), np.int64), 0), pixels
        )


def labelled_features(
    packed: PackedImages, ids: Ids, student: Student, pixels: PixelFormat, context: Context
) -> LabelledFeatures:
    """Features and embeddings of these samples in order, on every worker; each worker computes its share."""
    mine = ids[context.rank :: context.world_size]
    # A worker without a share, where samples are fewer than workers, runs one all the same and hands on no row of it.
    out = extract(
        student,
        center_views(packed, mine if len(mine) else ids[:1], pixels, context.device),
        context.device,
    )
    features, embeddings = (
        context.gather_rows(rows[: len(mine)]) for rows in (out.features, out.embeddings)
    )
    labels = torch.from_numpy(np.asarray(packed.labels[ids]))
    return LabelledFeatures(
        features, embeddings, labels.to(features.device), torch.from_numpy(ids.astype(np.int64))
    )


def evaluation_features(
    student: Student,
    packed: PackedImages,
    splits: Splits,
    pixels: PixelFormat,
    config: ProbeConfig,
    context: Context,
    progress: Progress = silent,
) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    """Features of train (or the probe's share of it), val and test: what every probe reads, computed once."""
    train = splits.train
    if config.train_images is not None and config.train_images < len(train):
        train = even_subset(train, packed.labels[train], config.train_images)
    parts = []
    for ids in (train, splits.val, splits.test):
        parts.append(labelled_features(packed, ids, student, pixels, context))
        progress("features", len(parts), 3)
    return parts[0], parts[1], parts[2]


def probe_student(
    student: Student,
    opened: OpenAssets,
    pixels: PixelFormat,
    config: ProbeConfig,
    context: Context,
    projected: bool = True,
) -> Evaluation | None:
    """The whole evaluation of a student, as every method gets it.

    Args:
        projected: its embeddings were trained towards the teacher's space; else there is no zero-shot to score.

    Returns:
        The evaluation on rank 0, None on the others, which only share in computing features.
    """
    parts = evaluation_features(student, opened.packed, opened.splits, pixels, config, context)
    anchors = opened.classes.embeddings.to(context.device) if projected else None
    return evaluate(*parts, anchors, config) if context.rank == 0 else None


def untrained_metrics(
    experiment: Experiment, assets: Assets, root: Path, device: torch.device
) -> dict[str, float]:
    """Metrics of the student with random weights, whatever its own would start from; computed once and kept."""
    experiment = with_values(
        experiment,
        {"student.init": "random", "student.small_image_stem": _stem(experiment.student)},
    )
    keys = [Path(path).name for path in (assets.packed, assets.classes)]
    sections = experiment.model_dump(mode="json", include={"student", "probe", "data", "seed"})

    def build(folder: Path) -> dict[str, Any]:
        opened = open_assets(assets, experiment.data)
        student = build_student(experiment.student, opened.width, experiment.seed).to(device)
        pixels = student_pixels(student, experiment.student.image_size)
        evaluation = probe_student(
            student, opened, pixels, experiment.probe, Context(device=device)
        )
        assert evaluation is not None
        return {"metrics": evaluation.metrics}

    metrics: dict[str, float] = build_once(
        root, "untrained", {"stores": keys, **sections}, build
    ).manifest["metrics"]
    return metrics


def _stem(student: StudentConfig) -> str:
    """timm's weights keep their own stem at any side, where random ones may not."""
    return (
        "never"
        if student.init == "pretrained" and student.small_image_stem == "auto"
        else student.small_image_stem
    )
