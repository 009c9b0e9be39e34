"""Where stores are made: opens sources, packs, loads teachers, each once, for as many experiments as there are."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from beamclip.config import DataConfig, TowerConfig
from beamclip.data import PackedImages, Source, open_source
from beamclip.data.packing import pack_source, parts_of
from beamclip.preparation.throughput import Throughput, measure_throughput, seconds_per_text
from beamclip.stores import Progress, Runner, build_once, in_process, key_of, silent, store_path
from beamclip.teachers import Teacher, load_teacher

_SPLITTING = {"train_images", "keep", "val_fraction", "split_seed", "broken_fraction"}


@dataclass
class PreparationContext:
    """What preparing needs to know of its surroundings, and what it has opened so far.

    Attributes:
        root: the folder of all stores.
        device: where teachers that are loaded here run.
        run: who does work that falls into shards.
        repair: build again what is damaged.
        find_pace: measures how fast a teacher is where the shards are worked on.
        precision: what `teacher.precision: auto` means where the shards are worked on.
    """

    root: Path
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is immutable
    progress: Progress = silent
    run: Runner = in_process
    repair: bool = False
    measure_throughput: Callable[[Teacher], Throughput] = measure_throughput
    precision: str | None = None
    _sources: dict[str, Source] = field(default_factory=dict)
    _packed: dict[str, PackedImages] = field(default_factory=dict)
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _paces: dict[str, Throughput] = field(default_factory=dict)

    def source(self, config: DataConfig) -> Source:
        """The opened source of the images."""
        key = _key(config.model_dump(mode="json", exclude=_SPLITTING))
        if key not in self._sources:
            self._sources[key] = open_source(config)
        return self._sources[key]

    def packed_path(self, config: DataConfig) -> Path:
        """Where the packed images are or will be."""
        return store_path(self.root, "packed", parts_of(self.source(config), config))

    def packed(self, config: DataConfig) -> PackedImages:
        """The packed images, made where they are not there yet."""
        key = _key(config.model_dump(mode="json", exclude=_SPLITTING - {"broken_fraction"}))
        if key not in self._packed:
            self._packed[key] = pack_source(
                self.source(config), config, self.root, self.progress, self.run, self.repair
            )
        return self._packed[key]

    def demo_teacher_path(self) -> Path:
        """Where the demo's teacher is or will be."""
        return store_path(self.root, "demo_teacher", _demo_parts())

    def teacher(self, config: TowerConfig) -> Teacher:
        """A teacher, loaded; the demo's is trained first where it does not exist, then loaded through the same door.

        Raises:
            UserError: the teacher can't be loaded.
        """
        key = _key(config.model_dump(mode="json", include=set(TowerConfig.model_fields)))
        if key not in self._teachers:
            self._teachers[key] = (
                self._demo_teacher(config)
                if config.model == "demo"
                else load_teacher(self._tower(config), self.device)
            )
        return self._teachers[key]

    def pace(self, teacher: Teacher) -> Throughput:
        """How fast a teacher is, and at which batch size; tried once."""
        key = key_of(teacher.fingerprint)
        if key not in self._paces:
            self._paces[key] = self.measure_throughput(teacher)
        return self._paces[key]

    def text_pace(self, teacher: Teacher) -> float:
        """Seconds that the text tower takes for a sentence here; tried once. A GPU elsewhere will take less."""
        key = f"{key_of(teacher.fingerprint)} texts"
        if key not in self._paces:
            self._paces[key] = Throughput(32, seconds_per_text(teacher, 32))
        return self._paces[key].seconds

    def _tower(self, config: TowerConfig) -> TowerConfig:
        """The same, with a precision that means the same everywhere."""
        values = config.model_dump(include=set(TowerConfig.model_fields))
        if values["precision"] == "auto" and self.precision is not None:
            values["precision"] = self.precision
        return TowerConfig(**values)

    def _demo_teacher(self, config: TowerConfig) -> Teacher:
        from beamclip.teachers.demo import train_demo_teacher

        def build(folder: Path) -> dict[str, Any]:
            train_demo_teacher(folder, self.progress)
            return {}

        store = build_once(
            self.root, "demo_teacher", _demo_parts(), build, self.progress, self.repair
        )
        config = config.model_copy(update={"model": f"local-dir:{store.path}", "pretrained": None})
        return replace(load_teacher(self._tower(config), self.device), name="demo")


def _demo_parts() -> dict[str, Any]:
    from beamclip.teachers.demo import DEMO_TEACHER_VERSION

    return {"version": DEMO_TEACHER_VERSION}


def _key(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
