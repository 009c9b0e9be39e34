"""Everything costly that a run reads, made before it starts: packed images, teacher embeddings, anchors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beamclip.anchors import AnchorBank, build_anchors
from beamclip.config import DataConfig, Experiment, UserError
from beamclip.data import PackedImages, Splits, pack, split
from beamclip.evaluation import accuracy, zero_shot_logits
from beamclip.stores import Progress, build_once, key_of, open_store, silent
from beamclip.students import check_backbone
from beamclip.teachers import Embeddings, Teacher, ViewSet, embed, load_teacher


@dataclass(frozen=True)
class Assets:
    """Where a run's stores are, and the facts about them that go with every run. JSON values only."""

    packed: str
    teacher_views: str
    anchors: str
    facts: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Assets":
        return cls(**json.loads(text))


@dataclass(frozen=True)
class OpenAssets:
    """The same, opened and memory-mapped."""

    packed: PackedImages
    splits: Splits
    teacher_views: Embeddings
    anchors: AnchorBank


def open_assets(assets: Assets, config: DataConfig) -> OpenAssets:
    """Open what `prepare` made. Never builds anything."""
    packed = PackedImages(open_store(Path(assets.packed)))
    embeddings = Embeddings(open_store(Path(assets.teacher_views)))
    return OpenAssets(packed, split(packed, config), embeddings, AnchorBank.open(open_store(Path(assets.anchors))))


def prepare(experiment: Experiment, root: Path, device: torch.device, progress: Progress = silent) -> Assets:
    """Make what is missing of a run's stores; a second call opens them.

    Args:
        root: the folder of all stores.

    Raises:
        UserError: data, teacher, student or class names are not what the experiment says.
    """
    check_backbone(experiment.student.backbone)
    packed = pack(experiment.data, root, progress)
    splits = split(packed, experiment.data)
    check_against_data(experiment, packed, splits)
    teacher = open_teacher(experiment, root, device, progress)
    views, encoded = embed(teacher, packed, _training_views(experiment, splits), root, experiment.teacher.batch_size, progress)
    anchors = build_anchors(teacher, packed.names, experiment.anchors.prompt_set, root)
    zero_shot, encoded_for_zero_shot = _teacher_zero_shot(experiment, teacher, packed, splits, AnchorBank.open(anchors), root, progress)
    facts = {
        "data_key": packed.key,
        "classes": len(packed.names),
        "train_images": len(splits.train),
        "teacher": teacher.name,
        "teacher_fingerprint": key_of(teacher.fingerprint),
        "width": teacher.width,
        "teacher/images_encoded": encoded + encoded_for_zero_shot,
        **zero_shot,
    }
    return Assets(str(packed.store.path), str(root / "embeddings" / views.key), str(anchors.path), facts)


def check_against_data(experiment: Experiment, packed: PackedImages, splits: Splits) -> None:
    """What can only be checked once the data is known.

    Raises:
        UserError: more anchors than classes, or a batch larger than the training set.
    """
    count, batch = experiment.anchors.count, experiment.optimiser.batch_size
    if count is not None and count > len(packed.names):
        raise UserError(f"anchors.count {count} is more than the {len(packed.names)} class names of the data; lower it or drop it")
    if batch > len(splits.train):
        raise UserError(f"optimiser.batch_size {batch} is more than the {len(splits.train)} training images; lower it")


def open_teacher(experiment: Experiment, root: Path, device: torch.device, progress: Progress = silent) -> Teacher:
    """The experiment's teacher; the demo's is trained first where it does not exist, then loaded through the same door.

    Raises:
        UserError: the teacher can't be loaded.
    """
    config = experiment.teacher
    if config.model == "demo":
        from beamclip.teachers.demo import DEMO_TEACHER_VERSION, train_demo_teacher

        def build(folder: Path) -> dict[str, Any]:
            train_demo_teacher(folder, progress)
            return {}

        store = build_once(root, "demo_teacher", {"version": DEMO_TEACHER_VERSION}, build)
        config = config.model_copy(update={"model": f"local-dir:{store.path}", "pretrained": None})
        return _renamed(load_teacher(config, device), "demo")
    return load_teacher(config, device)


def _renamed(teacher: Teacher, name: str) -> Teacher:
    return replace(teacher, name=name)


def _training_views(experiment: Experiment, splits: Splits) -> ViewSet:
    views = experiment.views
    if views.teacher == "center":
        return ViewSet.center(splits.train)
    stored = views.stored if views.resolve().random else 1
    return ViewSet(splits.train, views.resolve(), stored, views.seed)


def _teacher_zero_shot(
    experiment: Experiment, teacher: Teacher, packed: PackedImages, splits: Splits, anchors: AnchorBank, root: Path, progress: Progress
) -> tuple[Mapping[str, float], int]:
    held_out = ViewSet.center(np.sort(np.concatenate([splits.val, splits.test])))
    embeddings, encoded = embed(teacher, packed, held_out, root, experiment.teacher.batch_size, progress)
    metrics = {}
    for name, ids in (("val", splits.val), ("test", splits.test)):
        logits = zero_shot_logits(torch.from_numpy(embeddings.gather(ids, 0)), anchors.embeddings)
        metrics[f"teacher/zero_shot_{name}_top1"] = accuracy(logits, torch.from_numpy(packed.labels[ids]))
    return metrics, encoded
