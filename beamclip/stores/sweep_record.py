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
from beamclip.stores.moved_places import Places
from beamclip.stores.paths import filesystem_of, is_sqlite, list_folder, sqlite_uri, storage_root

_FILE = "sweep.json"
# The form of `new_sweep_id`: date, time and four digits.
_SWEEP_ID = re.compile(r"\d{8}-\d{6}-\d{4}")


@dataclass(frozen=True)
class SweepRecord:
    """A sweep and what was prepared for it. It is saved in the same folder as the sweep's trials.

    Attributes:
        sweep: name, question, search space and variants.
        base: the settings that all trials share.
        sweep_id: tells sweeps of the same name apart; see `new_sweep_id`.
        assets: the stores that trials use, as JSON text. Each trial finds its own by
            `beamclip.stores.paths.asset_key`. Empty until the stores are built.
        untrained: metrics of the untrained student by name. Empty until they are measured.
        moved: inputs that were moved since the sweep began; see `beamclip.stores.moved_places`.
    """

    sweep: Sweep
    base: Experiment
    sweep_id: str
    assets: Mapping[str, str] = field(default_factory=dict)
    untrained: Mapping[str, float] = field(default_factory=dict)
    moved: Places = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder or URI of everything this sweep writes."""
        return f"{storage_root(self.base)}/sweeps/{self.sweep.name}/{self.sweep_id}"

    def save(self) -> None:
        """Write the record to `sweep.json` in the sweep's folder.

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
        if self.moved:
            content["moved"] = {key: dict(places) for key, places in self.moved.items()}
        filesystem, path = filesystem_of(self.folder)
        # Written under another name first, so that a full disk can't destroy an existing record.
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
    """Return a new id, such as `20260131-120000-0042`. Ids sort by time (UTC)."""
    # The process id tells sweeps apart that start in the same second.
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid() % 10000:04d}"


def find_sweep(name: str, experiment: Experiment, sweep_id: str | None = None) -> SweepRecord:
    """Find a sweep in an experiment's storage, to resume it.

    Args:
        name: the sweep's name.
        experiment: its storage settings say where to look.
        sweep_id: id of the sweep; default: the latest sweep of this name.

    Raises:
        UserError: there is no such sweep, or its record can't be read.
    """
    root = storage_root(experiment)
    if sweep_id is None:
        sweep_id = _latest_id(f"{root}/sweeps", name)
    else:
        _check_id(f"{root}/sweeps", name, sweep_id)
    return load_record(root, name, sweep_id)


def _latest_id(sweeps: str, name: str) -> str:
    """Return the id of the latest sweep that has a record."""
    ids_with_record = []
    for sweep_id in _list_ids(sweeps, name):
        # Reports are written to such folders too, even if no sweep started there.
        if _FILE in list_folder(f"{sweeps}/{name}/{sweep_id}"):
            ids_with_record.append(sweep_id)
    if not ids_with_record:
        other_names = set(list_folder(sweeps)) - {name}
        raise UserError(
            f"no sweep {name} is in {sweeps}, so none can be resumed{nearest(name, other_names)}"
        )
    return ids_with_record[-1]


def _check_id(sweeps: str, name: str, sweep_id: str) -> None:
    """Raise UserError if there is no sweep with this id."""
    ids = _list_ids(sweeps, name)
    if sweep_id not in ids:
        raise UserError(
            f"sweep {sweep_id} is not in {sweeps}/{name}, so it can't be resumed"
            f"{nearest(sweep_id, ids)}"
        )


def _list_ids(sweeps: str, name: str) -> list[str]:
    """Return the ids of all sweeps of this name, oldest first."""
    return sorted(entry for entry in list_folder(f"{sweeps}/{name}") if _SWEEP_ID.fullmatch(entry))


def load_record(root: str, name: str, sweep_id: str) -> SweepRecord:
    """Read the record of a sweep whose storage may have been moved since the sweep was started.

    Paths inside the old storage folder are replaced by paths inside the current one.

    Args:
        root: current folder or URI of the storage.
        name: the sweep's name.
        sweep_id: its id.

    Raises:
        UserError: see `read_record`.
    """
    record = read_record(f"{root}/sweeps/{name}/{sweep_id}")
    old_root = record.base.storage.path
    # None: the storage was not a setting (`$BEAMCLIP_STORAGE` or the default), so the old root is
    # not known.
    if old_root is None or old_root == root:
        return replace(record, base=with_values(record.base, {"storage.path": root}))
    sweep = _with_root(record.sweep.model_dump(mode="json"), old_root, root)
    base = _with_root(record.base.model_dump(mode="json"), old_root, root)
    assets = {}
    for key, text in record.assets.items():
        assets[key] = json.dumps(_with_root(json.loads(text), old_root, root))
    return replace(
        record,
        sweep=validate(Sweep, sweep),
        base=validate(Experiment, base),
        assets=assets,
        moved=_with_root(record.moved, old_root, root),
    )


def _with_root(tree: Any, old: str, new: str) -> Any:
    """Return a tree of JSON values in which all paths inside the folder `old` are inside `new`."""
    if isinstance(tree, dict):
        # `objective.code` has paths as keys.
        return {
            _with_root(key, old, new): _with_root(value, old, new) for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_with_root(value, old, new) for value in tree]
    if not isinstance(tree, str):
        return tree
    if is_sqlite(tree):
        prefix = sqlite_uri(f"{old}/")
        return (
            sqlite_uri(f"{new}/") + tree.removeprefix(prefix) if tree.startswith(prefix) else tree
        )
    # A path may follow the scheme of a local model, or another objective of a sum, as in
    # `csm+/old/a.py:f+/old/b.py:g`. The lookahead skips other folders whose names only start with
    # `old`.
    earlier_objectives = r"^(?:\w+\+)+|\.py:\w+\+(?:\w+\+)*"
    pattern = rf"(^local-dir:|{earlier_objectives}|^){re.escape(old)}(?=/|$)"
    return re.sub(pattern, lambda match: match[1] + new, tree)


def read_record(folder: str) -> SweepRecord:
    """Read the record in a sweep's folder, as it was saved.

    Args:
        folder: folder or URI of the sweep.

    Raises:
        UserError: there is no record, it can't be read, or an incompatible version wrote it.
    """
    filesystem, path = filesystem_of(folder)
    try:
        with filesystem.open_input_stream(f"{path}/{_FILE}") as stream:
            content: dict[str, Any] = json.loads(stream.read())
        sweep = validate(Sweep, _with_current_names(content.pop("sweep")))
        base = validate(Experiment, content.pop("base"))
        return SweepRecord(sweep, base, **content)
    # AttributeError, KeyError and TypeError: the file is JSON, but not a record of this version.
    except (OSError, AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(
            f"{folder}/{_FILE} can't be read, so this sweep can't be resumed; "
            "start it again without --resume"
        ) from None


def _with_current_names(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored sweep in which renamed settings have their current names.

    `Sweep` accepts old names too, but would announce the new ones, as if the user had just typed
    the old ones.
    """
    space = current_names(sweep.get("space", {}))
    variants = {}
    for name, settings in sweep.get("variants", {}).items():
        variants[name] = current_names(settings)
    return {**sweep, "space": space, "variants": variants}
