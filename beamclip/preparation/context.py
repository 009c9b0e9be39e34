"""Define `PreparationContext`: it opens sources, packs images and loads teachers, each once."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from beamclip.config import DataConfig, TowerConfig
from beamclip.data import PackedImages, Source, open_source
from beamclip.data.packing import pack_source, store_parts
from beamclip.preparation.throughput import (
    Throughput,
    measure_seconds_per_text,
    measure_throughput,
)
from beamclip.stores import Progress, Runner, build_once, in_process, key_of, silent, store_path
from beamclip.teachers import Teacher, load_teacher

# Settings of `data` that change neither the source nor the packed images. Experiments that differ
# only in these share both.
_SPLIT_SETTINGS = {
    "train_images",
    "keep",
    "val_fraction",
    "split_seed",
    "max_unreadable_fraction",
    "check_class_names",
}
# Number of sentences that are encoded to measure the speed of a text tower.
_MEASURED_TEXTS = 32


def print_to_stderr(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class PreparationContext:
    """Where and how to prepare, and what has been opened so far.

    Attributes:
        root: folder of all stores.
        device: device of the teachers that are loaded in this process.
        progress: called with the progress of long work.
        run: runs work that is split into shards, in this process or on a cluster.
        run_small: runs work that is small enough for this process if it has the device for it.
        repair: rebuild what is damaged in existing stores.
        measure_throughput: measures a teacher's throughput on the machines that do the work.
        say: prints a line for the user.
        precision: what `teacher.precision: auto` means on the machines that do the work (`bf16` or
            `fp32`); None if this process does the work.
    """

    root: Path
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is immutable
    progress: Progress = silent
    run: Runner = in_process
    run_small: Runner = in_process
    repair: bool = False
    measure_throughput: Callable[[Teacher], Throughput] = measure_throughput
    say: Callable[[str], None] = print_to_stderr
    precision: str | None = None
    _sources: dict[str, Source] = field(default_factory=dict)
    _packed: dict[str, PackedImages] = field(default_factory=dict)
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _throughputs: dict[str, Throughput] = field(default_factory=dict)
    _text_seconds: dict[str, float] = field(default_factory=dict)

    def source(self, config: DataConfig) -> Source:
        """Return the source of the images; open it if it is not open yet.

        Raises:
            UserError: see `open_source`.
        """
        key = _cache_key(config.model_dump(mode="json", exclude=_SPLIT_SETTINGS))
        if key not in self._sources:
            self._sources[key] = open_source(config)
        return self._sources[key]

    def packed_path(self, config: DataConfig) -> Path:
        """Return the path of the packed images, which may not exist yet."""
        return store_path(self.root, "packed", store_parts(self.source(config), config))

    def packed(self, config: DataConfig) -> PackedImages:
        """Return the packed images; pack them if they are missing.

        Raises:
            UserError: see `pack`.
        """
        # `max_unreadable_fraction` stays in the cache key, because `pack_source` checks it on each
        # call. With a stricter limit, the same packed images may not be acceptable.
        exclude = _SPLIT_SETTINGS - {"max_unreadable_fraction"}
        key = _cache_key(config.model_dump(mode="json", exclude=exclude))
        if key not in self._packed:
            self._packed[key] = pack_source(
                self.source(config), config, self.root, self.progress, self.run, self.repair
            )
        return self._packed[key]

    def demo_teacher_path(self) -> Path:
        """Return the path of the demo's teacher, which may not exist yet."""
        return store_path(self.root, "demo_teacher", _demo_teacher_parts())

    def teacher(self, config: TowerConfig) -> Teacher:
        """Return a loaded teacher; train the demo's teacher first if it is missing.

        Raises:
            UserError: the teacher can't be loaded.
        """
        # Further teachers have more settings, such as a temperature. These do not change the model.
        key = _cache_key(config.model_dump(mode="json", include=set(TowerConfig.model_fields)))
        if key not in self._teachers:
            if config.model == "demo":
                self._teachers[key] = self._demo_teacher(config)
            else:
                self._teachers[key] = load_teacher(self._resolve_precision(config), self.device)
        return self._teachers[key]

    def throughput(self, teacher: Teacher) -> Throughput:
        """Return a teacher's throughput and batch size; measured once per weights."""
        key = key_of(teacher.fingerprint)
        if key not in self._throughputs:
            self._throughputs[key] = self.measure_throughput(teacher)
        return self._throughputs[key]

    def seconds_per_text(self, teacher: Teacher) -> float:
        """Return the text tower's seconds per sentence in this process; measured once per weights.

        This overestimates the time on a machine with a faster GPU.
        """
        key = key_of(teacher.fingerprint)
        if key not in self._text_seconds:
            self._text_seconds[key] = measure_seconds_per_text(teacher, _MEASURED_TEXTS)
        return self._text_seconds[key]

    def _resolve_precision(self, config: TowerConfig) -> TowerConfig:
        """Replace `precision: auto`, which means bf16 on one machine and fp32 on another."""
        values = config.model_dump(include=set(TowerConfig.model_fields))
        if values["precision"] == "auto" and self.precision is not None:
            values["precision"] = self.precision
        return TowerConfig(**values)

    def _demo_teacher(self, config: TowerConfig) -> Teacher:
        # Imported here, because only the demo needs it.
        from beamclip.teachers.demo import train_demo_teacher

        def build(folder: Path) -> dict[str, Any]:
            train_demo_teacher(folder, self.progress)
            return {}

        store = build_once(
            self.root, "demo_teacher", _demo_teacher_parts(), build, self.progress, self.repair
        )
        # Worker processes load the trained teacher by this config, like any checkpoint on disk.
        config = config.model_copy(update={"model": f"local-dir:{store.path}", "pretrained": None})
        teacher = load_teacher(self._resolve_precision(config), self.device)
        return replace(teacher, name="demo")


def _demo_teacher_parts() -> dict[str, Any]:
    from beamclip.teachers.demo import DEMO_TEACHER_VERSION

    return {"version": DEMO_TEACHER_VERSION}


def _cache_key(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
