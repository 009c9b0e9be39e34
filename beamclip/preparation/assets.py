"""Everything costly that runs read: where it lies, and opened."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beamclip.anchors import AnchorSet
from beamclip.balance import Clusters, kept_ids
from beamclip.config import DataConfig, TowerConfig, validate
from beamclip.data import PackedImages, Splits, split
from beamclip.data.packed import Ids
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
        trained: path of the store of the samples that students are trained on, None for all of train.
        clusters: path of the clusters of these, None where the objective needs none.
    """

    packed: str
    teachers: tuple[TeacherAssets, ...]
    classes: str
    facts: dict[str, Any]
    trained: str | None = None
    clusters: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Assets":
        content = json.loads(text)
        return cls(
            **content | {"teachers": tuple(TeacherAssets(**one) for one in content["teachers"])}
        )


@dataclass(frozen=True)
class OpenTeacher:
    """One teacher's stores, opened; `views` is None where it runs inside training."""

    views: Embeddings | None
    anchors: AnchorSet
    tower: TowerConfig
    temperature: float | None


@dataclass(frozen=True)
class OpenAssets:
    """The same, opened and memory-mapped.

    Attributes:
        trained: sorted ids of the samples that students are trained on: all of train, or what a filter leaves of it. Probes always
            get all of it.
        clusters: of these samples, None where the objective needs none.
    """

    packed: PackedImages
    splits: Splits
    teachers: tuple[OpenTeacher, ...]
    classes: AnchorSet
    trained: Ids
    clusters: Clusters | None = None

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
    classes = AnchorSet.open(open_store(Path(assets.classes)))
    splits = split(packed, config)
    trained = splits.train if assets.trained is None else kept_ids(open_store(Path(assets.trained)))
    clusters = None if assets.clusters is None else Clusters(open_store(Path(assets.clusters)))
    return OpenAssets(
        packed, splits, tuple(map(_open_teacher, assets.teachers)), classes, trained, clusters
    )


def _open_teacher(assets: TeacherAssets) -> OpenTeacher:
    views = None if assets.views is None else Embeddings(open_store(Path(assets.views)))
    anchors = AnchorSet.open(open_store(Path(assets.anchors)))
    return OpenTeacher(views, anchors, validate(TowerConfig, assets.tower), assets.temperature)
