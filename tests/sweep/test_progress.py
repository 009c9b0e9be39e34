import sys

import pytest

from beamclip.sweep import progress
from beamclip.sweep.progress import ProgressBars


@pytest.fixture
def on_terminal(monkeypatch):
    """`on_terminal()`: stderr is a terminal from here on."""
    return lambda: monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.fixture
def clock(monkeypatch):
    """`clock.now`: the seconds that progress sees."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_few_seconds_and_not_one_for_each_step(capsys, clock):
    with ProgressBars() as bars:
        for done in range(81_921):
            bars("packing images", done, 81_920)
            clock.now += 1 / 4096
    output = capsys.readouterr().err
    assert "\r" not in output
    assert output.splitlines() == [
        "packing images: 0/81,920",
        "packing images: 20,480/81,920, 4,096/s, 15s left",
        "packing images: 40,960/81,920, 4,096/s, 10s left",
        "packing images: 61,440/81,920, 4,096/s, 5s left",
        "packing images: 81,920/81,920, 4,096/s, took 20s",
    ]


def test_the_log_of_a_day_stays_short_and_has_a_line_a_minute(capsys, clock):
    with ProgressBars() as bars:
        for minute in range(24 * 60 * 6):
            bars("epochs and probes", minute, 24 * 60 * 6)
            clock.now += 10
    lines = capsys.readouterr().err.splitlines()
    assert 24 * 60 <= len(lines) <= 24 * 60 + 120


def test_lines_say_what_the_trials_do_and_count_no_earlier_work(capsys, clock):
    with ProgressBars() as bars:
        bars("epochs and probes", 30, 40)
        bars.set_postfix("2 of 4 trials begun")
        clock.now += 10
        bars("epochs and probes", 35, 40)
        clock.now += 10
        bars("epochs and probes", 32, 40)  # a trial continued from an older checkpoint
        clock.now += 10
        bars("epochs and probes", 30, 40)
    assert capsys.readouterr().err.splitlines() == [
        "epochs and probes: 30/40",
        "epochs and probes: 35/40, 0.5/s, 10s left, 2 of 4 trials begun",
        "epochs and probes: 32/40, 0.1/s, 1m20s left, 2 of 4 trials begun",
        "epochs and probes: 30/40, 2 of 4 trials begun",
    ]


def test_work_that_ends_within_seconds_is_two_lines(capsys):
    with ProgressBars() as bars:
        for done in range(51):
            bars("teacher images", done, 50)
    assert capsys.readouterr().err == "teacher images: 0/50\nteacher images: 50/50\n"


def test_a_new_label_ends_the_bar_before_it(capsys, on_terminal):
    on_terminal()
    with ProgressBars() as bars:
        for done in (10, 40, 100):
            bars("packing images", done, 100)
        bars("teacher", 5, 7)
    output = capsys.readouterr()
    assert output.out == ""
    assert "packing images: 100%" in output.err
    assert "5/7" in output.err


def test_a_total_may_change_and_progress_may_go_back(capsys):
    with ProgressBars() as bars:
        bars("trials", 8, 10)
        bars("trials", 4, 20)  # a trial continued from an older checkpoint
    assert "4/20" in capsys.readouterr().err


def test_two_passes_of_one_label_are_two_bars_and_earlier_work_is_not_in_the_rate(
    capsys, on_terminal
):
    on_terminal()
    with ProgressBars() as bars:
        bars("teacher images", 900, 1000)
        bars("teacher images", 0, 50)
        bars("teacher images", 50, 50)
    output = capsys.readouterr().err
    assert "1000/1000" in output and "50/50" in output
    assert output.split("\r")[1].endswith("?/s]")


def test_no_bar_is_drawn_without_a_label_and_lines_can_be_written_any_time(capsys):
    with ProgressBars() as bars:
        bars("", 0, 0)
        bars.set_postfix("no bar")
        assert capsys.readouterr().err == ""
        bars.write("a line")
        bars("trials", 1, 2)
        bars.set_postfix("a note")
        bars.write("another")
    output = capsys.readouterr().err
    assert "a line\n" in output
    assert "another\n" in output
    assert "a note" in output


def test_closing_twice_does_nothing(capsys):
    bars = ProgressBars()
    bars("a", 1, 2)
    bars.close()
    bars.close()
    bars("a", 2, 2)  # the same label again is a new bar
    bars.close()
    assert "2/2" in capsys.readouterr().err
