"""Evaluate a student: compute the features of train, val and test once, then run all probes.

The workers share the computation of the features. The probes run on rank 0.
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

# Images in a forward pass.
_BATCH = 256


def student_pixels(student: Student, size: int) -> PixelFormat:
    """Return the pixel format of this student's input, with sides of `size` px."""
    mean, std = student.normalization
    return PixelFormat(size, mean, std, "bilinear")


def center_views(
    packed: PackedImages, ids: Ids, pixels: PixelFormat, device: torch.device
) -> Iterator[Tensor]:
    """Yield the canonical (center) views of these samples, in order.

    Yields:
        Batches of at most 256 views, [n, 3, S, S] float32 on the device.
    """
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        images = torch.from_numpy(packed.read(batch)).to(device)
        # The center recipe has nothing random, so view id and seed are 0.
        parameters = draw(RECIPES["center"], batch, np.zeros(len(batch), np.int64), 0)
        yield render(images, parameters, pixels)


def labeled_features(
    packed: PackedImages, ids: Ids, student: Student, pixels: PixelFormat, context: Context
) -> LabeledFeatures:
    """Return features and embeddings of these samples, in order, on every worker.

    Each worker computes a part of them, then all parts are gathered. All workers must call this
    function.

    Args:
        packed: the images.
        ids: sample ids, at least one.
        student: run in evaluation mode.
        pixels: the student's input format.
        context: context of this worker.
    """
    rank_ids = ids[context.rank :: context.world_size]
    # With fewer samples than workers, some workers have no sample. They run one image, to have
    # tensors of the right width for gathering, and then contribute no row of it.
    ids_to_run = rank_ids if len(rank_ids) else ids[:1]
    extracted = extract(
        student, center_views(packed, ids_to_run, pixels, context.device), context.device
    )
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
        student: run in evaluation mode.
        packed: the images.
        splits: train is cut to `config.train_images`, evenly over the classes.
        pixels: the student's input format.
        config: settings of the probes.
        context: context of this worker; all workers must call this function.
        progress: called after each of the three splits.

    Returns:
        The features of train, val and test.
    """
    train = splits.train
    if config.train_images is not None and config.train_images < len(train):
        train = even_subset(train, packed.labels[train], config.train_images)
    features = []
    for ids in (train, splits.val, splits.test):
        features.append(labeled_features(packed, ids, student, pixels, context))
        progress("features", len(features), 3)
    return features[0], features[1], features[2]


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
        student: run in evaluation mode.
        opened: opened stores of the run.
        pixels: the student's input format.
        config: settings of the probes.
        context: context of this worker; all workers must call this function.
        projected: True if the student was trained to embed into the teacher's space. If False,
            there is no zero-shot accuracy.

    Returns:
        The evaluation on rank 0, None on the other ranks.
    """
    train, val, test = evaluation_features(
        student, opened.packed, opened.splits, pixels, config, context
    )
    if context.rank != 0:
        return None
    anchors = opened.classes.embeddings.to(context.device) if projected else None
    return evaluate(train, val, test, anchors, config)


def untrained_metrics(
    experiment: Experiment, assets: Assets, root: Path, device: torch.device
) -> dict[str, float]:
    """Return the metrics of the experiment's student with random weights, the baseline to beat.

    They are computed once and kept as a store, which depends on student, probe, data and seed.

    Args:
        experiment: settings of the run; `student.init` is replaced by `random`.
        assets: stores of the experiment.
        root: folder of all stores.
        device: device to compute the features on.
    """
    experiment = with_values(
        experiment,
        {"student.init": "random", "student.small_image_stem": _random_stem(experiment.student)},
    )
    # The folder of a store is named by its key.
    store_keys = [Path(path).name for path in (assets.packed, assets.classes)]
    sections = experiment.key_parts(include={"student", "probe", "data", "seed"})

    def build(folder: Path) -> dict[str, Any]:
        opened = open_assets(assets, experiment.data)
        student = build_student(experiment.student, opened.width, experiment.seed).to(device)
        pixels = student_pixels(student, experiment.student.image_size)
        evaluation = probe_student(
            student, opened, pixels, experiment.probe, Context(device=device)
        )
        # A single process has rank 0.
        assert evaluation is not None
        return {"metrics": evaluation.metrics}

    store = build_once(root, "untrained", {"stores": store_keys, **sections}, build)
    metrics: dict[str, float] = store.manifest["metrics"]
    return metrics


def _random_stem(student: StudentConfig) -> str:
    """Return the `small_image_stem` that gives random weights the stem of the configured student.

    Under `auto`, timm's weights keep their original stem, but random weights get the small one for
    small images. The baseline must have the same architecture as the student.
    """
    if student.init == "pretrained" and student.small_image_stem == "auto":
        return "never"
    return student.small_image_stem
