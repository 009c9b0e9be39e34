import io

import pytest
from rich.console import Console

from beamclip.config import UserError
from beamclip.reporting.comparison import compare
from beamclip.reporting.tables import render
from beamclip.tracking import write_published

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"


def rendered(comparison, **options):
    console = Console(file=io.StringIO(), **options)
    render(comparison, console)
    return console.file.getvalue()


def test_a_sweep_is_read_best_first_and_the_best_trial_has_finished(uri, finished):
    comparison = compare(uri, "temp")
    assert (comparison.sweep_id, comparison.question, comparison.status) == (
        "s1",
        "which temperature?",
        "FINISHED",
    )
    assert comparison.varied == (TAU_T, TAU_S)
    assert [row.metrics["linear_probe/val_top1"] for row in comparison.trials] == [
        99.0,
        45.0,
        44.0,
        40.0,
    ]
    assert comparison.best.settings == {TAU_T: "0.02", TAU_S: "0.1"}
    assert [row.method for row in comparison.references] == ["teacher", "untrained"]
    assert all(row.seconds >= 0 for row in comparison.trials)


def test_the_latest_sweep_is_shown_unless_another_is_named(uri, finished, opened):
    opened("s2").close()
    assert compare(uri, "temp").sweep_id == "s2"
    assert compare(uri, "temp").best is None
    assert compare(uri, "temp", "s1").best is not None


@pytest.mark.slow
def test_trials_on_every_page_of_the_api_are_read(uri, opened, monkeypatch):
    tracker = opened()
    for number in range(5):
        tracker.start_trial(f"t{number}", {TAU_T: 0.02, TAU_S: 0.05})
    real = type(tracker.client).search_runs
    small = lambda *args, **options: real(*args, **options, max_results=2)  # noqa: E731
    monkeypatch.setattr(type(tracker.client), "search_runs", small)
    assert len(compare(uri, "temp").trials) == 5


def test_an_unknown_name_is_reported_with_similar_names(uri, finished):
    with pytest.raises(UserError, match="did you mean temp"):
        compare(uri, "temps")
    with pytest.raises(UserError, match="known are s1"):
        compare(uri, "temp", "s9")


def test_an_experiment_without_sweeps_is_an_error(uri, finished):
    finished.client.create_experiment("bare")
    with pytest.raises(UserError, match="has no sweep"):
        compare(uri, "bare")


def test_without_a_terminal_the_table_is_plain_and_fits_100_columns(uri, finished):
    write_published(finished.client, finished.experiment_id)
    text = rendered(compare(uri, "temp"))
    lines = [line.strip() for line in text.splitlines()]
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    best = next(line for line in lines if line.startswith("* best "))
    assert best.split()[2:] == [
        "0.02",
        "0.1",
        "45.0",
        "44.0",
        "(41.8-46.5)",
        "40.0",
        "36.0",
        "1234",
        *best.split()[-2:],
    ]
    apart = next(i for i, line in enumerate(lines) if "not measured here" in line)
    assert any(line.startswith("SimReg") for line in lines[apart:])
    assert not any(line.startswith(("teacher", "untrained", "* best")) for line in lines[apart:])


def test_a_narrow_terminal_loses_only_the_speed_column(uri, finished):
    write_published(finished.client, finished.experiment_id)
    text = rendered(compare(uri, "temp"), width=78, force_terminal=True, color_system=None)
    for shown in ("τ_T", "τ_S", "44.0 (41.8-46.5)", "done", "FAILED"):
        assert shown in text
    assert "…" not in text and "img/s" not in text and "1234" not in text
    wide = rendered(compare(uri, "temp"), width=90, force_terminal=True, color_system=None)
    assert "img/s" in wide and "1234" in wide


def test_published_results_have_one_line_each_and_name_each_source_once(uri, finished):
    write_published(finished.client, finished.experiment_id)
    comparison = compare(uri, "temp")
    lines = (
        rendered(comparison, width=80, force_terminal=True, color_system=None)
        .split("not measured here")[1]
        .splitlines()
    )
    rows, sources = (
        [line for line in lines if "resnet18" in line],
        [line for line in lines if line.startswith("[")],
    )
    assert len(rows) == len(comparison.published) and all(len(line) <= 80 for line in rows)
    (simreg,) = (row for row in rows if row.startswith("SimReg"))
    assert sources[int(simreg.split("[")[1].split("]")[0]) - 1].endswith(
        "SimReg (paper or authors' code)"
    )
    assert (
        len(sources)
        == len(set(sources))
        == len({row.tags["reference"] for row in comparison.published})
    )


def test_one_trial_is_singular(uri, opened):
    tracker = opened()
    tracker.start_trial("t0", {TAU_T: 0.02, TAU_S: 0.05})
    assert "sweep s1: 1 trial, " in rendered(compare(uri, "temp"))


def test_many_varied_settings_share_a_column(uri, finished):
    comparison = compare(uri, "temp")
    wide = type(comparison)(
        **{**vars(comparison), "varied": (TAU_T, TAU_S, "optimizer.lr", "optimizer.name")}
    )
    assert "τ_T=0.02 τ_S=0.1" in rendered(wide, width=140)
