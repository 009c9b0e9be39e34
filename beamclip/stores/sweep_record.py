"""The record by which a sweep is found again."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from beamclip.config import Experiment, Sweep, UserError, nearest, validate, with_values
from beamclip.stores.paths import entries, filesystem_of, storage_root


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep was asked and what was prepared for it, kept beside its trials so that `--resume` needs no other argument.

    Attributes:
        assets: asset key -> the stores, as JSON text.
        untrained: metrics of the student as it stands before training.
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
        try:
            filesystem.create_dir(path, recursive=True)
            with filesystem.open_output_stream(f"{path}/sweep.json.part") as stream:
                stream.write(json.dumps(content, indent=1).encode())
            filesystem.move(
                f"{path}/sweep.json.part", f"{path}/sweep.json"
            )  # a full disk must not cost the record that was there
        except OSError as error:
            raise UserError(
                f"storage {self.folder} can't be written ({error.strerror or error}); choose another with --storage"
            ) from None


def new_sweep_id() -> str:
    """A name that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid() % 10000:04d}"


def begun_sweep(name: str, experiment: Experiment, sweep_id: str | None = None) -> SweepRecord:
    """A sweep of this name in the experiment's storage, the youngest by itself. It goes on where it was found, wherever it was begun.

    Raises:
        UserError: there is none.
    """
    root = storage_root(experiment)
    sweeps = f"{root}/sweeps"
    ids = sorted(
        entry for entry in entries(f"{sweeps}/{name}") if re.fullmatch(r"\d{8}-\d{6}-\d{4}", entry)
    )
    begun = (
        one for one in reversed(ids) if "sweep.json" in entries(f"{sweeps}/{name}/{one}")
    )  # a report makes a folder, too
    if sweep_id is not None and sweep_id not in ids:
        raise UserError(
            f"no sweep {sweep_id} lies in {sweeps}/{name} to resume{nearest(sweep_id, ids)}"
        )
    if (found := sweep_id or next(begun, None)) is None:
        raise UserError(
            f"no sweep {name} lies in {sweeps} to resume{nearest(name, {*entries(sweeps)} - {name})}"
        )
    return record_in(root, name, found)


def record_in(root: str, name: str, sweep_id: str) -> SweepRecord:
    """A sweep that lies in this storage; what lay inside the one it was begun in does in this one.

    Raises:
        UserError: as `read_record`.
    """
    record = read_record(f"{root}/sweeps/{name}/{sweep_id}")
    old = record.base.storage.path
    if old is None or old == root:
        return replace(record, base=with_values(record.base, {"storage.path": root}))
    sweep, base = (
        _elsewhere(part.model_dump(mode="json"), old, root) for part in (record.sweep, record.base)
    )
    assets = {
        key: json.dumps(_elsewhere(json.loads(text), old, root))
        for key, text in record.assets.items()
    }
    return replace(
        record, sweep=validate(Sweep, sweep), base=validate(Experiment, base), assets=assets
    )


def _elsewhere(tree: Any, old: str, new: str) -> Any:
    """All values that name the old folder or something inside it, with the new one in its place."""
    if isinstance(tree, dict):
        return {key: _elsewhere(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_elsewhere(value, old, new) for value in tree]
    if not isinstance(tree, str):
        return tree
    return re.sub(
        rf"^(sqlite:///|local-dir:)?{re.escape(old)}(?=/|$)",
        lambda found: (found[1] or "") + new,
        tree,
    )


def read_record(folder: str) -> SweepRecord:
    """Read what `SweepRecord.save` wrote.

    Raises:
        UserError: it is missing or was not written by this version.
    """
    filesystem, path = filesystem_of(folder)
    try:
        with filesystem.open_input_stream(f"{path}/sweep.json") as stream:
            content: dict[str, Any] = json.loads(stream.read())
        sweep, base = (
            validate(Sweep, content.pop("sweep")),
            validate(Experiment, content.pop("base")),
        )
        return SweepRecord(sweep, base, **content)
    except (OSError, AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(
            f"{folder}/sweep.json can't be read, so this sweep can't be resumed; start it again without --resume"
        ) from None
