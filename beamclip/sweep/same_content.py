"""Check that inputs in a new place are those that a sweep was begun with."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beamclip.config import UserError, planned_values, trial_experiment
from beamclip.config.provenance import without_passwords
from beamclip.distributed.store_reports import InputKeys
from beamclip.stores import key_of, read_json
from beamclip.stores.moved_places import NORMALIZATION, add_moved_places
from beamclip.stores.paths import LOCAL_MODEL
from beamclip.stores.sweep_record import SweepRecord

# Stores whose names must be the same if one of these inputs was moved.
_STORES_OF_LISTS = {
    "data.class_names": ("classes", "anchors"),
    "anchors.vocabulary": ("anchors",),
    "data.keep": ("trained",),
    "teacher.model": ("classes", "anchors"),
    "teacher.pretrained": ("classes", "anchors"),
}


def check_same_inputs(record: SweepRecord, keys: Mapping[str, InputKeys]) -> None:
    """Check images and teachers in their new places, before anything is built from them.

    Args:
        record: the sweep, with the stores it was begun with and the inputs that were moved.
        keys: keys of what is in the new places, by asset key.

    Raises:
        UserError: the content is not the same.
    """
    moved_teachers = [key for key in record.moved if key.startswith("teacher.")]
    for asset_key, found in keys.items():
        begun = _begun(record, asset_key)
        if "data.path" in record.moved:
            packed = [Path(assets["packed"]).name for assets in begun]
            _check_any(record, "data.path", found["packed"], packed)
        # Nothing tells what weights a further teacher had if none of its views were stored.
        recorded = [_teacher_keys(assets) for assets in begun]
        for number, teacher in enumerate(found["teachers"]):
            at_start = [keys[number] for keys in recorded if number < len(keys)]
            if teacher is not None:
                for key in moved_teachers:
                    _check_any(record, key, teacher, [key for key in at_start if key is not None])


def check_same_stores(record: SweepRecord, assets: Mapping[str, str]) -> None:
    """Check the stores that were made from lists in new places, before trials use them.

    Args:
        record: the sweep, with the stores it was begun with and the inputs that were moved.
        assets: the stores that are there now, by asset key, as JSON text.

    Raises:
        UserError: they are not the stores that the sweep was begun with.
    """
    for asset_key, text in assets.items():
        begun = _begun(record, asset_key)
        for key in record.moved:
            for kind in _STORES_OF_LISTS.get(key, ()):
                expected = [_names(stores, kind) for stores in begun]
                _check_any(record, key, _names(json.loads(text), kind), expected)


def with_first_teacher_names(record: SweepRecord, assets: Mapping[str, str]) -> dict[str, str]:
    """Return assets in which teachers keep the names that the sweep was begun with.

    A teacher's name is that of its folder. Under a new name, its reference run would be written a
    second time.
    """
    renamed = {}
    for asset_key, text in assets.items():
        content = json.loads(text)
        if asset_key in record.assets:
            begun = json.loads(record.assets[asset_key])
            content["facts"]["teacher"] = begun["facts"]["teacher"]
        renamed[asset_key] = json.dumps(content)
    return renamed


def moved_lines(record: SweepRecord) -> list[str]:
    """Return a line for each input that was moved, to be printed after the checks."""
    reason = (
        "with the same content as when the sweep began"
        if record.assets
        else "not compared, since the sweep had built nothing yet"
    )
    lines = []
    for key, places in record.moved.items():
        for first, now in places.items():
            if key in NORMALIZATION:
                lines.append(f"{key} is {now}, {reason}; sweep.json has it now")
                continue
            lines.append(
                f"{key} {_readable(first)} is now read from {_readable(now)}, {reason}; "
                "sweep.json has the new path"
            )
    return lines


def _begun(record: SweepRecord, asset_key: str) -> list[dict[str, Any]]:
    """Return the stores that the sweep was begun with, as far as they are recorded."""
    texts: Iterable[str] = record.assets.values()
    # If the storage was moved too, the keys may be new. Then any of the recorded stores will do.
    if asset_key in record.assets:
        texts = [record.assets[asset_key]]
    return [json.loads(text) for text in texts]


def _teacher_keys(begun: Mapping[str, Any]) -> list[str | None]:
    """Return the keys of the teachers' fingerprints; None where no store tells."""
    keys: list[str | None] = [begun["facts"]["teacher_fingerprint"]]
    for teacher in begun["teachers"][1:]:
        manifest = read_json(Path(teacher["views"]) / "manifest.json") if teacher["views"] else None
        parts = (manifest or {}).get("parts", {})
        keys.append(key_of(parts["teacher"]) if "teacher" in parts else None)
    return keys


def _names(assets: Mapping[str, Any], kind: str) -> str:
    paths = [assets.get(kind)]
    if kind == "anchors":
        paths = [teacher["anchors"] for teacher in assets["teachers"]]
    return ", ".join(Path(path).name for path in paths if path)


def _check_any(record: SweepRecord, key: str, found: str, expected: Sequence[str]) -> None:
    """Raise UserError if content keys of the sweep are recorded, but not this one."""
    if not expected or found in expected:
        return
    places = record.moved[key]
    first = ", ".join(map(_readable, places))
    now = ", ".join(map(_readable, places.values()))
    if key in NORMALIZATION:
        raise UserError(
            f"with {key} {now}, the teacher is not the one with which this sweep was begun (its "
            f"key is {found}, not {expected[0]}); give the values that it had then, or start a new "
            "sweep"
        )
    advice = "give the path of an unchanged copy"
    if key == "data.path":
        advice += ", in which the files also have the same times (cp -a)"
    raise UserError(
        f"{key} {now} differs from {first}, with which this sweep was begun (its key is {found}, "
        f"not {expected[0]}); {advice}, or start a new sweep"
    )


def _readable(place: str) -> str:
    return without_passwords(place.removeprefix(LOCAL_MODEL))


def with_moved_places_of(record: SweepRecord, given: Mapping[str, Any] | None) -> SweepRecord:
    """Return the record of a sweep to resume with the new places of its inputs.

    Raises:
        UserError: it is not clear which input was moved.
    """
    if not given:
        return record
    trials = [
        trial_experiment(record.sweep, record.base, values)
        for values in planned_values(record.sweep)
    ]
    return replace(record, moved=add_moved_places(trials, record.moved, given))
