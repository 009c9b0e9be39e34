import io
import shutil
from dataclasses import replace

import pytest
from helpers.tracking_fixtures import demo_base
from rich.console import Console

from beamclip.config import Sweep, choice
from beamclip.reporting.comparison import compare
from beamclip.reporting.tables import measured_table, render, table_notes
from beamclip.tracking import SweepTracker

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"
VAL, TEST = "linear_probe/val_top1", "linear_probe/test_top1"


@pytest.fixture(scope="module")
def repeated(empty_database, tmp_path_factory):
    """Two temperatures, three seeds each; the last trial failed."""
    path = tmp_path_factory.mktemp("mlflow_seeds") / "mlflow.db"
    shutil.copy(empty_database, path)
    uri = f"sqlite:///{path}"
    sweep = Sweep(
        name="seeds", question="?", space={TAU_T: choice(0.02, 0.05), "seed": choice(0, 1, 2)}
    )
    with SweepTracker.open(uri, None, sweep, demo_base(), "s1") as tracker:
        for number, (tau, seed, val) in enumerate(
            [(t, s, v + s) for t, v in ((0.02, 40.0), (0.05, 60.0)) for s in (0, 1, 2)]
        ):
            trial = f"t{number}"
            tracker.start_trial(trial, {TAU_T: tau, "seed": seed})
            interval = {f"{TEST}_low": val - 4, f"{TEST}_high": val + 2}
            cost = {"cost/device_seconds": 60.0 + seed, "cost/images_seen": 640.0}
            tracker.log_trial_metrics(
                trial, {VAL: val, TEST: val - 1, "knn/test_top1": val} | interval | cost, 1
            )
            tracker.end_trial(trial, "FAILED" if number == 5 else "FINISHED")
        tracker.log_reference("untrained", {}, {VAL: 21.0, TEST: 20.0})
    return compare(uri, "seeds")


def test_seeds_share_a_row_with_mean_and_interval(repeated):
    trials = tuple(row for row in repeated.trials if row.settings[TAU_T] == "0.02")
    table = measured_table(replace(repeated, trials=trials))
    (best, untrained) = table.rows
    assert [title.replace("\n", " ") for title in table.columns] == [
        "run",
        "τ_T",
        "probe val",
        "probe test",
        "kNN",
        "zero- shot",
        "img/s",
        "device time",
        "status",
    ]
    assert best.cells == (
        "* best",
        "0.02",
        "41.0 ±2.5",
        "40.0 ±2.5",
        "41.0 ±2.5",
        "-",
        "-",
        "1m01s",
        "3 done",
    )
    assert untrained.cells[0] == "untrained" and untrained.cells[3] == "20.0"


def test_a_group_with_a_failed_seed_is_marked_and_not_chosen(repeated):
    first, second = measured_table(repeated).rows[:2]
    assert (first.cells[0], first.cells[-1]) == ("better", "2 of 3, FAILED")
    assert second.cells[0] == "* best"
    assert repeated.best.settings == {TAU_T: "0.02", "seed": "2"}


def test_the_notes_explain_each_kind_of_interval(repeated, uri, finished):
    over_seeds, over_images = (
        "\n".join(table_notes(repeated)),
        "\n".join(table_notes(compare(uri, "temp"))),
    )
    assert f"chosen on the mean over seeds of {VAL}" in over_seeds
    assert "95 % interval (Student's t)" in over_seeds and "Welch's t over seeds" in over_seeds
    assert "over test images, which does not cover seeds" not in over_seeds
    assert (
        "over test images, which does not cover seeds" in over_images
        and "Student" not in over_images
    )
    assert "≈ best: no significant difference from the best" in over_images


def test_a_note_warns_if_training_taught_nothing(repeated):
    note = f"no trial beats the untrained student on {VAL}"
    assert not any(line.startswith(note) for line in table_notes(repeated))
    better = tuple(replace(row, metrics={VAL: 50.0}) for row in repeated.references)
    assert any(
        line.startswith(f"{note} (41.0 against 50.0)")
        for line in table_notes(replace(repeated, references=better))
    )


def test_one_seed_keeps_its_interval_over_images(repeated):
    one = replace(
        repeated, trials=tuple(row for row in repeated.trials if row.settings["seed"] == "0")
    )
    assert [row.cells[3] for row in measured_table(one).rows[:2]] == [
        "59.0 (56.0-62.0)",
        "39.0 (36.0-42.0)",
    ]


def test_a_variant_is_shown_like_any_other_setting(uri, base):
    sweep = Sweep(name="variants", space={"seed": choice(0)})
    with SweepTracker.open(uri, None, sweep, base, "s1") as tracker:
        tracker.start_trial("t0", {"seed": 0}, tags={"variant": "swav then csm"})
        tracker.client.log_param(
            tracker.run_id, "space.variant", '{"kind": "choice", "values": ["swav then csm"]}'
        )
    read = compare(uri, "variants")
    assert read.trials[0].settings == {"seed": "0", "variant": "swav then csm"}
    assert "swav then csm" in measured_table(read).rows[0].cells


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_lost_in_a_narrow_terminal(repeated, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    render(repeated, console)
    text = console.file.getvalue()
    for shown in ("41.0 ±2.5", "40.0 ±2.5", "3 done", "2 of 3,", "FAILED", "better", "* best"):
        assert shown in text


def test_notes_list_missing_failed_tied_and_doubtful_results(finished, uri):
    comparison = compare(uri, "temp")
    text = "\n".join(table_notes(comparison))
    assert "failed, τ_T=0.05 τ_S=0.1: the loss became NaN" in text
    assert (
        "trials have ended" not in text and "exactly the same" not in text
    )  # all four have ended, and differ
    short = replace(
        comparison,
        trials=comparison.trials[:2],
        tags={"beamclip.teacher_near_chance": "tiny: 11 %; guessing gets 10 %"},
    )
    text = "\n".join(table_notes(short))
    assert "2 of 4 trials have ended" in text and "--resume" in text
    assert "hardly knows these classes" in text and text.endswith("guessing gets 10 %")
    failed, first, second, third = comparison.trials
    same = {**second.metrics, comparison.metric: first.metrics[comparison.metric]}
    tied = replace(comparison, trials=(failed, first, replace(second, metrics=same), third))
    assert "2 settings have exactly the same linear_probe/val_top1" in "\n".join(table_notes(tied))


def test_ties_are_counted_with_the_chosen_group_and_not_with_one_that_lacks_a_seed(finished, uri):
    comparison = compare(uri, "temp")
    first = comparison.trials[0]
    rows = [
        replace(
            first,
            run_id=f"{a}{seed}",
            settings={"a": a, "seed": seed},
            status=status,
            metrics={comparison.metric: val},
        )
        for a, seed, status, val in [
            ("lucky", "0", "FINISHED", 60.0),
            ("lucky", "1", "FAILED", 60.0),
            *((a, seed, "FINISHED", 50.0) for a in ("x", "y") for seed in "01"),
        ]
    ]
    sweep = replace(comparison, trials=tuple(rows), varied=("a", "seed"))
    assert sweep.groups[0].settings == {"a": "lucky"} and sweep.best_group.settings == {"a": "x"}
    assert "2 settings have exactly the same" in "\n".join(table_notes(sweep))
