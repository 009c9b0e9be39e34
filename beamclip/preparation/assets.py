"""Define the assets of a run: paths of the stores that it reads, and facts about them.

`Assets` are plain values that travel to workers as JSON. `open_assets` opens the stores there.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beamclip.anchors import AnchorSet
from beamclip.balance import Clusters, kept_ids
from beamclip.config import DataConfig, TowerConfig, validate
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
from beamclip.preparation.zero_shot import ZeroShotAccuracy
from beamclip.stores import open_store
from beamclip.teachers import Embeddings


@dataclass(frozen=True)
class AssetFacts:
    """Facts about the stores of an experiment, recorded with each of its runs.

    Attributes:
        data_key: key of the packed images.
        classes: number of classes of the data.
        train_images: number of images that students are trained on.
        teacher: name of the teacher; if there are several, all names joined by " + ".
        teacher_fingerprint: key of the first teacher's fingerprint.
        width: embedding width D of the first teacher.
        zero_shot_val: zero-shot accuracy of the first teacher on val.
        zero_shot_test: zero-shot accuracy of the first teacher on test.
        anchors: summary of the first teacher's anchors, JSON values.
        images_encoded: number of images that teachers encoded for this experiment. Images that were
            already stored do not count.
        images_encoded_in_all: the same for all experiments that were prepared together.
        balance: facts about balance and `data.keep`, JSON values; None without either.
    """

    data_key: str
    classes: int
    train_images: int
    teacher: str
    teacher_fingerprint: str
    width: int
    zero_shot_val: ZeroShotAccuracy
    zero_shot_test: ZeroShotAccuracy
    anchors: Mapping[str, Any]
    images_encoded: int
    images_encoded_in_all: int
    balance: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as they are written to a sweep's record and to MLflow."""
        balance = {} if self.balance is None else {"balance": dict(self.balance)}
        return balance | {
            "data_key": self.data_key,
            "classes": self.classes,
            "train_images": self.train_images,
            "teacher": self.teacher,
            "teacher_fingerprint": self.teacher_fingerprint,
            "width": self.width,
            "teacher/zero_shot_val_top1": self.zero_shot_val.top1,
            "teacher/zero_shot_val_top1_low": self.zero_shot_val.low,
            "teacher/zero_shot_test_top1": self.zero_shot_test.top1,
            "teacher/zero_shot_test_top1_low": self.zero_shot_test.low,
            "anchors": dict(self.anchors),
            "teacher/images_encoded": self.images_encoded,
            "teacher/images_encoded_in_all": self.images_encoded_in_all,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "AssetFacts":
        """Read facts. What an earlier version did not record becomes 0 or empty."""

        def zero_shot(split: str) -> ZeroShotAccuracy:
            key = f"teacher/zero_shot_{split}_top1"
            return ZeroShotAccuracy(content.get(key, 0.0), content.get(f"{key}_low", 0.0))

        return cls(
            data_key=content.get("data_key", ""),
            classes=content.get("classes", 0),
            train_images=content.get("train_images", 0),
            teacher=content.get("teacher", ""),
            teacher_fingerprint=content.get("teacher_fingerprint", ""),
            width=content.get("width", 0),
            zero_shot_val=zero_shot("val"),
            zero_shot_test=zero_shot("test"),
            anchors=content.get("anchors", {}),
            images_encoded=content.get("teacher/images_encoded", 0),
            images_encoded_in_all=content.get("teacher/images_encoded_in_all", 0),
            balance=content.get("balance"),
        )


@dataclass(frozen=True)
class TeacherAssets:
    """Paths of one teacher's stores. JSON values only.

    Attributes:
        views: path of the embeddings of the training views; None if the teacher runs during
            training, or if the objective needs no embeddings.
        anchors: path of the anchors that students match.
        tower: the `TowerConfig` by which the teacher can be loaded.
        temperature: the teacher's own temperature τ_T; None to use the objective's.
    """

    views: str | None
    anchors: str
    tower: dict[str, Any]
    temperature: float | None = None


@dataclass(frozen=True)
class Assets:
    """Paths of the stores of a run, and facts about them.

    The field names are JSON keys of a sweep's record.

    Attributes:
        packed: path of the packed images.
        teachers: stores of each teacher.
        classes: path of the first teacher's anchors of the data's own classes, for zero-shot
            accuracy.
        facts: facts about the stores.
        trained: path of the store with the sample ids that students are trained on; None for all
            of train.
        clusters: path of the clusters of these samples; None if the objective needs none.
    """

    packed: str
    teachers: tuple[TeacherAssets, ...]
    classes: str
    facts: AssetFacts
    trained: str | None = None
    clusters: str | None = None

    def to_json(self) -> str:
        """Return the assets as JSON text."""
        return json.dumps(asdict(self) | {"facts": self.facts.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Assets":
        """Read assets from JSON text, also that of earlier versions."""
        content = json.loads(text)
        return cls(
            packed=content["packed"],
            teachers=tuple(TeacherAssets(**teacher) for teacher in content["teachers"]),
            classes=content["classes"],
            facts=AssetFacts.from_json(content["facts"]),
            trained=content.get("trained"),
            clusters=content.get("clusters"),
        )


@dataclass(frozen=True)
class OpenTeacher:
    """One teacher's stores, opened.

    Attributes:
        views: embeddings of the training views; None if the teacher runs during training, or if
            the objective needs no embeddings.
        anchors: the anchors that students match.
        tower: the config by which the teacher can be loaded.
        temperature: the teacher's own temperature τ_T; None to use the objective's.
    """

    views: Embeddings | None
    anchors: AnchorSet
    tower: TowerConfig
    temperature: float | None


@dataclass(frozen=True)
class OpenAssets:
    """The assets of a run, opened and memory-mapped.

    Attributes:
        packed: the packed images.
        splits: sample ids of train, val and test.
        teachers: stores of each teacher.
        classes: the first teacher's anchors of the data's own classes, for zero-shot accuracy.
        trained: sorted ids of the samples that students are trained on: all of train, or the part
            that `data.keep` and balance leave. Probes always use all of train.
        clusters: clusters of these samples; None if the objective needs none.
    """

    packed: PackedImages
    splits: Splits
    teachers: tuple[OpenTeacher, ...]
    classes: AnchorSet
    trained: Ids
    clusters: Clusters | None = None

    @property
    def width(self) -> int:
        """Return the embedding width D of the first teacher and of the students."""
        return self.classes.embeddings.shape[1]


def open_assets(assets: Assets, config: DataConfig) -> OpenAssets:
    """Open the stores that `prepare` built. Nothing is built here.

    Args:
        assets: paths of the stores.
        config: data settings, which decide how the images are split.

    Raises:
        UserError: a store is missing or damaged.
    """
    packed = PackedImages(open_store(Path(assets.packed)))
    classes = AnchorSet.open(open_store(Path(assets.classes)))
    splits = split(packed, config)
    trained = splits.train
    if assets.trained is not None:
        trained = kept_ids(open_store(Path(assets.trained)))
    clusters = None
    if assets.clusters is not None:
        clusters = Clusters(open_store(Path(assets.clusters)))
    teachers = tuple(_open_teacher(teacher) for teacher in assets.teachers)
    return OpenAssets(packed, splits, teachers, classes, trained, clusters)


def _open_teacher(assets: TeacherAssets) -> OpenTeacher:
    views = None if assets.views is None else Embeddings(open_store(Path(assets.views)))
    anchors = AnchorSet.open(open_store(Path(assets.anchors)))
    return OpenTeacher(views, anchors, validate(TowerConfig, assets.tower), assets.temperature)
