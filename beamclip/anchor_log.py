"""The anchors of a sweep, kept with its parent run: a table of all banks, and a heat map and the nearest pairs of each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beamclip.records import SweepRecord

_PICTURES = 12  # banks that are drawn; the table has all
_COLUMNS = ("prompt_set", "anchors", "prompts", "prompts_per_class", "bare", "shortened", "duplicates", "near", "hash")


def log_anchors(tracker: Any, record: SweepRecord) -> None:
    """Write `anchors.csv`, and `anchors/HASH/{heat_map.png,nearest_pairs.csv}` for each bank that students match."""
    banks = {facts["anchors"]["hash"]: (facts, place) for facts, place in _banks(record)}
    tracker.log_table([_row(facts) for facts, _ in banks.values()], "anchors.csv")
    for number, (facts, place) in enumerate(banks.values()):
        if number < _PICTURES:
            _log_bank(tracker, facts, place)


def _banks(record: SweepRecord) -> list[tuple[dict[str, Any], Path]]:
    """Facts of each set of stores, and where the first teacher's anchors lie."""
    opened = [json.loads(text) for text in record.assets.values()]
    return [(assets["facts"], Path(assets["teachers"][0]["anchors"])) for assets in opened]


def _row(facts: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: facts["anchors"][name] for name in _COLUMNS}
    own["prompts_per_class"] = " to ".join(map(str, dict.fromkeys(own["prompts_per_class"])))
    return {"teacher": facts["teacher"], **own, "teacher_zero_shot_val_top1": round(facts["teacher/zero_shot_val_top1"], 2)}


def _log_bank(tracker: Any, facts: Mapping[str, Any], place: Path) -> None:
    import numpy as np

    from beamclip.anchors.figures import heat_map
    from beamclip.stores import read_json

    report, names = facts["anchors"], (read_json(place / "manifest.json") or {}).get("names", [])
    title = f"{facts['teacher']}, {report['prompt_set']}: cosines of anchors"
    tracker.log_figure(heat_map(np.load(place / "anchors.npy"), names, title), f"anchors/{report['hash']}/heat_map.png")
    pairs = [{"class": a, "other class": b, "cosine": cosine} for a, b, cosine in report["nearest"]]
    tracker.log_table(pairs, f"anchors/{report['hash']}/nearest_pairs.csv")
