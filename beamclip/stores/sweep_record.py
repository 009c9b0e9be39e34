"""The record of a sweep, `sweep.json`, from which `--resume` finds everything it needs."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from beamclip.config import Experiment, Sweep, UserError, nearest, validate, with_values
from beamclip.config.renamed import current_names
from beamclip.stores.paths import filesystem_of, list_folder, storage_root

_FILE = "sweep.json"
_SWEEP_ID = re.compile(r"\d{8}-\d{6}-\d{4}")


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep is, and what was prepared for it. Kept next to its trials.

    Attributes:
        sweep: its search space.
        base: the settings all trials share.
        sweep_id: its id among sweeps of the same name.
        assets: the stores of each trial as JSON text, by `beamclip.stores.paths.asset_key`.
        untrained: metrics of the untrained student.
    """

    sweep: Sweep
    base: Experiment
    sweep_id: str
    assets: Mapping[str, str] = field(default_factory=dict)
    untrained: Mapping[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder or URI of everything this sweep writes."""
        return f"{storage_root(self.base)}/sweeps/{self.sweep.name}/{self.sweep_id}"

    def save(self) -> None:
        """Write the record.

        It is written to another file first, so that a full disk can't destroy an existing record.

        Raises:
            UserError: the storage can't be written.
        """
        content = {
            "sweep": self.sweep.model_dump(mode="json"),
            "base": self.base.model_dump(mode="json"),
            "sweep_id": self.sweep_id,
            "assets": dict(self.assets),
            "untrained": dict(self.untrained),
        }
        filesystem, path = filesystem_of(self.folder)
        partial = f"{path}/{_FILE}.part"
        try:
            filesystem.create_dir(path, recursive=True)
            with filesystem.open_output_stream(partial) as stream:
                stream.write(json.dumps(content, indent=1).encode())
            filesystem.move(partial, f"{path}/{_FILE}")
        except OSError as error:
            raise UserError(
                f"storage {self.folder} can't be written ({error.strerror or error}); "
                "choose another with --storage"
            ) from None


def new_sweep_id() -> str:
    """Return a new id. Ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid() % 10000:04d}"


def find_sweep(name: str, experiment: Experiment, sweep_id: str | None = None) -> SweepRecord:
    """Find a sweep in an experiment's storage, to resume it.

    Args:
        name: the sweep's name.
        experiment: its storage settings say where to look.
        sweep_id: default: the latest sweep of this name.

    Raises:
        UserError: there is no such sweep, or its record can't be read.
    """
    root = storage_root(experiment)
    sweeps = f"{root}/sweeps"
    ids = sorted(entry for entry in list_folder(f"{sweeps}/{name}") if _SWEEP_ID.fullmatch(entry))
    if sweep_id is not None and sweep_id not in ids:
        raise UserError(
            f"sweep {sweep_id} is not in {sweeps}/{name}, so it can't be resumed"
            f"{nearest(sweep_id, ids)}"
        )
    if sweep_id is None:
        # A report creates a folder too, but no record.
        begun = [one_id for one_id in ids if _FILE in list_folder(f"{sweeps}/{name}/{one_id}")]
        if not begun:
            others = {*list_folder(sweeps)} - {name}
            raise UserError(
                f"no sweep {name} is in {sweeps}, so none can be resumed{nearest(name, others)}"
            )
        sweep_id = begun[-1]
    return load_record(root, name, sweep_id)


def load_record(root: str, name: str, sweep_id: str) -> SweepRecord:
    """Read the record of a sweep in a storage that may have been moved.

    Paths inside the storage in which the sweep was begun are replaced by paths inside this one.

    Args:
        root: folder or URI of the storage, as it is now.
        name: the sweep's name.
        sweep_id: its id.

    Raises:
        UserError: as `read_record`.
    """
    record = read_record(f"{root}/sweeps/{name}/{sweep_id}")
    old_root = record.base.storage.path
    if old_root is None or old_root == root:
        return replace(record, base=with_values(record.base, {"storage.path": root}))
    sweep = _with_root(record.sweep.model_dump(mode="json"), old_root, root)
    base = _with_root(record.base.model_dump(mode="json"), old_root, root)
    assets = {}
    for key, text in record.assets.items():
        assets[key] = json.dumps(_with_root(json.loads(text), old_root, root))
    return replace(
        record, sweep=validate(Sweep, sweep), base=validate(Experiment, base), assets=assets
    )


def _with_root(tree: Any, old: str, new: str) -> Any:
    """Return JSON values with the folder `new` in place of `old`, in all paths inside `old`."""
    if isinstance(tree, dict):
        return {key: _with_root(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_root(value, old, new) for value in tree]
    if not isinstance(tree, str):
        return tree
    pattern = rf"^(sqlite:///|local-dir:)?{re.escape(old)}(?=/|$)"
    return re.sub(pattern, lambda match: (match[1] or "") + new, tree)


def read_record(folder: str) -> SweepRecord:
    """Read the record in a sweep's folder.

    Raises:
        UserError: there is none, or an incompatible version wrote it.
    """
    filesystem, path = filesystem_of(folder)
    try:
        with filesystem.open_input_stream(f"{path}/{_FILE}") as stream:
            content: dict[str, Any] = json.loads(stream.read())
        sweep = validate(Sweep, _with_current_names(content.pop("sweep")))
        base = validate(Experiment, content.pop("base"))
        return SweepRecord(sweep, base, **content)
    except (OSError, AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(
            f"{folder}/{_FILE} can't be read, so this sweep can't be resumed; "
            "start it again without --resume"
        ) from None


def _with_current_names(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored sweep with present names of settings, which aren't announced to the user."""
    variants = {
        name: current_names(settings) for name, settings in sweep.get("variants", {}).items()
    }
    return {**sweep, "space": current_names(sweep.get("space", {})), "variants": variants}
