"""Evaluate a student: features of train, val and test are computed once, then the probes run.

The workers share the computation of the features; the probes run on rank 0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beamclip.config import RECIPES, Experiment, ProbeConfig, StudentConfig, with_values
from beamclip.data import PackedImages, Splits, draw, even_subset
from beamclip.data.augmentation.render import PixelFormat, render
from beamclip.data.packed import Ids
from beamclip.evaluation import Evaluation, LabeledFeatures, evaluate, extract
from beamclip.preparation.assets import Assets, OpenAssets, open_assets
from beamclip.stores import Progress, build_once, silent
from beamclip.students import Student, build_student
from beamclip.training.context import Context

_BATCH = 256


def student_pixels(student: Student, size: int) -> PixelFormat:
    """Return the pixel format of this student's input, with a side of `size` pixels."""
    mean, std = student.normalization
    return PixelFormat(size, mean, std, "bilinear")


def center_views(
    packed: PackedImages, ids: Ids, pixels: PixelFormat, device: torch.device
) -> Iterator[Tensor]:
    """Yield the canonical view of these samples, in order, in batches of [<= 256, 3, S, S]."""
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        images = torch.from_numpy(packed.read(batch)).to(device)
        parameters = draw(RECIPES["center"], batch, np.zeros(len(batch), np.int64), 0)
        yield render(images, parameters, pixels)


def labeled_features(
    packed: PackedImages, ids: Ids, student: Student, pixels: PixelFormat, context: Context
) -> LabeledFeatures:
    """Return features and embeddings of these samples, in order, on every worker.

    Each worker computes its part, then all parts are gathered.
    """
    rank_ids = ids[context.rank :: context.world_size]
    # With fewer samples than workers, a worker without samples still runs one image, to have
    # tensors of the right width for gathering, and contributes none of its rows.
    views = center_views(packed, rank_ids if len(rank_ids) else ids[:1], pixels, context.device)
    extracted = extract(student, views, context.device)
    features = context.gather_rows(extracted.features[: len(rank_ids)])
    embeddings = context.gather_rows(extracted.embeddings[: len(rank_ids)])
    labels = torch.from_numpy(np.asarray(packed.labels[ids]))
    return LabeledFeatures(
        features, embeddings, labels.to(features.device), torch.from_numpy(ids.astype(np.int64))
    )


def evaluation_features(  # noqa: PLR0913 - a student, its images and the settings
    student: Student,
    packed: PackedImages,
    splits: Splits,
    pixels: PixelFormat,
    config: ProbeConfig,
    context: Context,
    progress: Progress = silent,
) -> tuple[LabeledFeatures, LabeledFeatures, LabeledFeatures]:
    """Return the features of train, val and test that all probes use.

    Args:
        student: put into evaluation mode.
        packed: the images.
        splits: train is cut to `config.train_images`, evenly over the classes.
        pixels: the student's input format.
        config: settings of the probes.
        context: of this worker.
        progress: called after each of the three parts.
    """
    train = splits.train
    if config.train_images is not None and config.train_images < len(train):
        train = even_subset(train, packed.labels[train], config.train_images)
    parts = []
    for ids in (train, splits.val, splits.test):
        parts.append(labeled_features(packed, ids, student, pixels, context))
        progress("features", len(parts), 3)
    return parts[0], parts[1], parts[2]


def probe_student(  # noqa: PLR0913 - a student, its images and the settings
    student: Student,
    opened: OpenAssets,
    pixels: PixelFormat,
    config: ProbeConfig,
    context: Context,
    projected: bool = True,
) -> Evaluation | None:
    """Run the whole evaluation, which is the same for every method.

    Args:
        student: put into evaluation mode.
        opened: the run's stores.
        pixels: the student's input format.
        config: settings of the probes.
        context: of this worker; all workers must call this function.
        projected: True if the student's embeddings were trained towards the teacher's space.
            Without that there is no zero-shot accuracy.

    Returns:
        The evaluation on rank 0, None on the other ranks.
    """
    parts = evaluation_features(student, opened.packed, opened.splits, pixels, config, context)
    anchors = opened.classes.embeddings.to(context.device) if projected else None
    return evaluate(*parts, anchors, config) if context.rank == 0 else None


def untrained_metrics(
    experiment: Experiment, assets: Assets, root: Path, device: torch.device
) -> dict[str, float]:
    """Return the metrics of the experiment's student with random weights, the baseline to beat.

    Computed once and kept as a store, which depends on student, probe, data and seed. The weights
    are random even if the student of the experiment starts from others.

    Args:
        experiment: the settings.
        assets: the experiment's stores.
        root: folder of all stores.
        device: where the features are computed.
    """
    experiment = with_values(
        experiment,
        {"student.init": "random", "student.small_image_stem": _random_stem(experiment.student)},
    )
    store_keys = [Path(path).name for path in (assets.packed, assets.classes)]
    sections = experiment.key_parts(include={"student", "probe", "data", "seed"})

    def build(folder: Path) -> dict[str, Any]:
        opened = open_assets(assets, experiment.data)
        student = build_student(experiment.student, opened.width, experiment.seed).to(device)
        pixels = student_pixels(student, experiment.student.image_size)
        evaluation = probe_student(
            student, opened, pixels, experiment.probe, Context(device=device)
        )
        assert evaluation is not None
        return {"metrics": evaluation.metrics}

    store = build_once(root, "untrained", {"stores": store_keys, **sections}, build)
    metrics: dict[str, float] = store.manifest["metrics"]
    return metrics


def _random_stem(student: StudentConfig) -> str:
    """Return the setting that gives a student with random weights the stem of the configured one.

    With `auto`, timm's weights keep their own stem at any image size; random weights may not.
    """
    if student.init == "pretrained" and student.small_image_stem == "auto":
        return "never"
    return student.small_image_stem
