import json

import numpy as np
import pytest

from beamclip.config import Sweep, load_experiment
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.tracking_log import log_anchors


class StubTracker:
    """Keeps what it is given to keep with the sweep, by name."""

    def __init__(self):
        self.tables, self.figures = {}, {}

    def log_table(self, rows, name):
        self.tables[name] = list(rows)

    def log_figure(self, figure, name):
        self.figures[name] = figure


@pytest.fixture
def logged(tmp_path):
    """`logged([hash, …])`: what is kept of a sweep whose cells have these banks."""

    def call(hashes):
        assets = {}
        for number, key in enumerate(hashes):
            bank = tmp_path / key
            bank.mkdir(exist_ok=True)
            np.save(bank / "anchors.npy", np.eye(3, dtype=np.float32))
            (bank / "manifest.json").write_text('{"names": ["moss", "rose", "sand"]}')
            report = {
                "prompt_set": f"set {key}",
                "anchors": 3,
                "prompts": 5,
                "prompts_per_class": [1, 3],
                "bare": 1,
                "shortened": 2,
            }
            report |= {
                "duplicates": 0,
                "near": 1,
                "nearest": [["moss", "sand", 0.96], ["moss", "rose", 0.5]],
                "hash": key,
            }
            facts = {"teacher": "tiny", "anchors": report, "teacher/zero_shot_val_top1": 12.3456}
            assets[str(number)] = json.dumps(
                {
                    "facts": facts,
                    "teachers": [{"anchors": str(bank)}, {"anchors": "of another teacher"}],
                }
            )
        tracker = StubTracker()
        log_anchors(tracker, SweepRecord(Sweep(name="s"), load_experiment("demo"), "id", assets))
        return tracker

    return call


def test_every_bank_is_in_the_table_once(logged):
    tracker = logged(["a", "b", "a"])
    rows = tracker.tables["anchors.csv"]
    assert [row["hash"] for row in rows] == ["a", "b"]
    assert rows[0] == {
        "teacher": "tiny", "prompt_set": "set a", "anchors": 3, "prompts": 5, "prompts_per_class": "1 to 3", "bare": 1, "shortened": 2,
        "duplicates": 0, "near": 1, "hash": "a", "teacher_zero_shot_val_top1": 12.35,
    }  # fmt: skip


def test_each_has_its_picture_and_its_nearest_pairs(logged):
    tracker = logged(["a", "b"])
    assert sorted(tracker.figures) == ["anchors/a/heat_map.png", "anchors/b/heat_map.png"]
    axes = tracker.figures["anchors/b/heat_map.png"].axes[0]
    assert axes.get_title() == "tiny, set b: cosines of anchors"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["moss", "rose", "sand"]
    pairs = tracker.tables["anchors/a/nearest_pairs.csv"]
    assert pairs[0] == {"class": "moss", "other class": "sand", "cosine": 0.96} and len(pairs) == 2


def test_of_many_banks_the_first_are_drawn_and_all_are_in_the_table(logged):
    tracker = logged([f"bank{number:02}" for number in range(14)])
    assert len(tracker.tables["anchors.csv"]) == 14
    assert sorted(tracker.figures) == [
        f"anchors/bank{number:02}/heat_map.png" for number in range(12)
    ]
