"""Everything costly that runs read: where it lies, and opened."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.anchors import AnchorBank
from beamclip.config import DataConfig, TowerConfig, checked
from beamclip.data import PackedImages, Splits, split
from beamclip.stores import open_store
from beamclip.teachers import Embeddings


@dataclass(frozen=True)
class TeacherAssets:
    """One teacher's stores. JSON values only.

    Attributes:
        views: path of its embeddings; None where it runs inside training.
        anchors: path of the anchors it is matched over.
        tower: by which it can be loaded.
        temperature: its own τ_T, None for the objective's.
    """

    views: str | None
    anchors: str
    tower: dict[str, Any]
    temperature: float | None = None


@dataclass(frozen=True)
class Assets:
    """Where a run's stores are, and the facts about them that go with every run. JSON values only.

    Attributes:
        classes: path of the first teacher's anchors of the data's own classes, on which zero-shot is scored.
    """

    packed: str
    teachers: tuple[TeacherAssets, ...]
    classes: str
    facts: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Assets":
        content = json.loads(text)
        return cls(content["packed"], tuple(TeacherAssets(**one) for one in content["teachers"]), content["classes"], content["facts"])


@dataclass(frozen=True)
class OpenTeacher:
    """One teacher's stores, opened; `views` is None where it runs inside training."""

    views: Embeddings | None
    anchors: AnchorBank
    tower: TowerConfig
    temperature: float | None


@dataclass(frozen=True)
class OpenAssets:
    """The same, opened and memory-mapped."""

    packed: PackedImages
    splits: Splits
    teachers: tuple[OpenTeacher, ...]
    classes: AnchorBank

    @property
    def trained(self) -> NDArray[np.int64]:
        """The samples that students are trained on: all of train, or what a filter leaves of it. Probes always get all of it."""
        return self.splits.train

    @property
    def clusters(self) -> Any:
        """k-means of the teacher's embeddings, None where the objective needs none."""
        return None

    @property
    def width(self) -> int:
        """D, of the first teacher's space, which is the students' too."""
        return self.classes.embeddings.shape[1]


def open_assets(assets: Assets, config: DataConfig) -> OpenAssets:
    """Open what `prepare` made. Never builds anything.

    Raises:
        UserError: a store is damaged.
    """
    packed = PackedImages(open_store(Path(assets.packed)))
    classes = AnchorBank.open(open_store(Path(assets.classes)))
    return OpenAssets(packed, split(packed, config), tuple(map(_open_teacher, assets.teachers)), classes)


def _open_teacher(assets: TeacherAssets) -> OpenTeacher:
    views = None if assets.views is None else Embeddings(open_store(Path(assets.views)))
    anchors = AnchorBank.open(open_store(Path(assets.anchors)))
    return OpenTeacher(views, anchors, checked(TowerConfig, assets.tower), assets.temperature)
