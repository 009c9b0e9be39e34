"""Events that a listener receives, and whether a sweep ran to its end; without a Ray cluster."""

from types import SimpleNamespace

import pytest

from beamclip.config import (
    Sweep,
    UserError,
    choice,
    init_experiment,
    load_experiment,
    trial_experiment,
    with_values,
)
from beamclip.distributed import tune
from beamclip.distributed.callback import FINAL_ERROR, SweepCallback, last_error_line
from beamclip.distributed.listener import RestoredTrial
from beamclip.distributed.student_handoff import StudentHandoff
from beamclip.distributed.tune import run_trials
from beamclip.stores.sweep_record import SweepRecord

SWEEP = Sweep(name="s", space={"seed": choice(1, 2)})


class Listener:
    """Records the events of trials in `events`."""

    def __init__(self):
        self.events = []

    def on_restore(self, trials):
        if trials:
            self.events.append(("restored", *sorted(trials)))
            self.restored = trials

    def on_trial_start(self, trial_id, values):
        self.events.append(("started", trial_id, values))

    def on_trial_result(self, trial_id, metrics):
        self.events.append(("reported", trial_id))

    def on_trial_end(self, trial_id, status, error):
        self.events.append(("ended", trial_id, status, error))


def trial(trial_id, finished=False, error_file=None):
    return SimpleNamespace(
        trial_id=trial_id,
        config={"values": {"seed": 1}},
        last_result={"epoch": 3},
        is_finished=lambda: finished,
        num_failures=1,
        max_failures=2,
        error_file=error_file,
    )


class Results(list):
    """As Tune's: the last report of each trial that ended."""

    def __init__(self, reports):
        super().__init__(SimpleNamespace(metrics=report) for report in reports)
        self.num_terminated = len(self)


@pytest.fixture
def run_sweep(monkeypatch, tmp_path):
    """`run_sweep(steps)`: the result of `run_trials` for a sweep of two, and the listener's events.

    `steps(callback)` plays Tune's part; `terminated` trials had ended in an earlier session.
    """

    def run(steps, terminated=0, sweep=SWEEP):
        def fit():
            steps(SweepCallback())
            return Results(
                {"trial_id": name, "config": {"values": {"seed": 1}}, "epoch": 3}
                for name in "ab"[:terminated]
            )

        base = load_experiment("demo", {"storage.path": str(tmp_path)})
        record = SweepRecord(sweep, base, "id")
        tuner = SimpleNamespace(fit=fit)
        monkeypatch.setattr(tune, "_new_tuner", lambda *arguments: tuner)
        monkeypatch.setattr(tune, "trainable", lambda record, slots_name=None: None)
        listener = Listener()
        return run_trials(record, listener, concurrent=1, resume=False), listener.events

    return run


def test_a_sweep_has_ended_when_all_its_trials_have_finished_or_failed(run_sweep, tmp_path):
    (tmp_path / "error.txt").write_text("Traceback…\n\nValueError: no luck\n")

    def steps(callback):
        a, b = trial("a"), trial("b", error_file=f"{tmp_path}/error.txt")
        callback.on_step_begin(0, [])
        callback.on_trial_start(0, [], a)
        callback.on_trial_result(0, [], a, {})
        callback.on_trial_complete(0, [], a)
        callback.on_trial_start(0, [], b)
        callback.on_trial_error(0, [], b)  # before it reported anything

    all_ended, events = run_sweep(steps)
    assert all_ended
    assert events == [
        ("started", "a", {"seed": 1}), ("reported", "a"), ("ended", "a", "FINISHED", None),
        ("started", "b", {"seed": 1}), ("ended", "b", "FAILED", "ValueError: no luck"),
    ]  # fmt: skip


def test_a_trial_that_reported_a_failure_has_failed(run_sweep):
    def steps(callback):
        callback.on_step_begin(0, [])
        for name, result in (
            ("a", {"failure": "the loss is not finite"}),
            ("b", {"epoch": 1}),
        ):
            callback.on_trial_start(0, [], trial(name))
            callback.on_trial_result(0, [], trial(name), result)
            callback.on_trial_complete(0, [], trial(name))

    all_ended, events = run_sweep(steps)
    assert all_ended
    assert [event for event in events if event[0] == "ended"] == [
        ("ended", "a", "FAILED", "the loss is not finite"),
        ("ended", "b", "FINISHED", None),
    ]


def test_no_trial_waits_for_one_that_was_lost_and_not_retried(run_sweep, tmp_path):
    def steps(callback):
        callback.on_step_begin(0, [])
        callback.on_trial_start(0, [], trial("a"))
        callback.on_trial_error(0, [], trial("a"))

    run_sweep(steps)
    record = SweepCallback.record
    with pytest.raises(UserError, match="has failed"):
        StudentHandoff(record.folder, record.base).wait_for(with_values(record.base, {"seed": 1}))


def test_restored_trials_do_not_wait_for_one_without_a_student(
    run_sweep,
):
    variants = {"first": {"optimizer.lr": 1.0}, "second": {"student.init": "variant:first"}}
    sweep = Sweep(
        name="s", variants=variants, space={"variant": choice(*variants), "seed": choice(1)}
    )

    def steps(callback):
        over = trial("a", finished=True)
        over.config["values"] = {"variant": "first", "seed": 1}
        callback.on_step_begin(7, [over, trial("b")])

    run_sweep(steps, sweep=sweep)
    waiting = trial_experiment(sweep, SweepCallback.record.base, {"variant": "second", "seed": 1})
    with pytest.raises(UserError, match="has failed"):
        StudentHandoff(SweepCallback.record.folder, waiting).wait_for(
            init_experiment(sweep, SweepCallback.record.base, {"variant": "second", "seed": 1})
        )


def test_a_lost_process_is_retried_max_failures_times_and_a_final_error_never(
    run_sweep,
):
    lost = trial("a")

    def steps(callback):
        callback.on_step_begin(0, [])
        callback.on_trial_start(0, [], lost)
        assert lost.max_failures == 1 + 2  # an earlier session's failure does not count
        lost.num_failures += 1
        callback.on_trial_start(0, [], lost)
        assert lost.max_failures == 1 + 2
        callback.on_trial_result(0, [], lost, {FINAL_ERROR: True})
        assert lost.max_failures == 0

    _, events = run_sweep(steps)
    assert [event[0] for event in events] == ["started", "started"]


def test_a_trial_that_never_started_or_never_ended_was_interrupted(run_sweep):
    def steps(callback):
        callback.on_step_begin(0, [])
        callback.on_trial_start(0, [], trial("a"))
        callback.on_trial_complete(0, [], trial("a"))
        callback.on_trial_start(0, [], trial("b"))

    assert not run_sweep(steps)[0]
    assert not run_sweep(lambda callback: None)[0]


def test_if_all_trials_ended_earlier_tune_takes_no_step(run_sweep):
    assert run_sweep(lambda callback: None, terminated=2) == (True, [("restored", "a", "b")])
    restored = SweepCallback.listener.restored["b"]
    assert restored.values == {"seed": 1}
    assert restored.report.items() >= {"epoch": 3}.items()
    assert not run_sweep(lambda callback: None, terminated=1)[0]


def test_trials_of_an_earlier_session_count_and_are_restored_once(run_sweep):
    def steps(callback):
        callback.on_step_begin(7, [trial("a", finished=True), trial("b")])
        callback.on_trial_start(7, [], trial("b"))
        callback.on_trial_complete(7, [], trial("b"))

    all_ended, events = run_sweep(steps)
    assert all_ended
    assert [event[:2] for event in events] == [("restored", "a"), ("started", "b"), ("ended", "b")]
    assert SweepCallback.listener.restored == {"a": RestoredTrial({"seed": 1}, {"epoch": 3})}


def test_an_interruption_before_the_unfinished_trial_restarts_is_one(run_sweep):
    def steps(callback):
        callback.on_step_begin(7, [trial("a", finished=True), trial("b")])

    assert not run_sweep(steps)[0]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("  \n ", "unknown"),
        (
            "Traceback\nray.train.v2.WorkerGroupError: a worker died\n",
            "ray.train.v2.WorkerGroupError: a worker died",
        ),
    ],
)
def test_the_error_of_a_trial_is_the_last_line_of_its_file(error, line, tmp_path):
    (tmp_path / "error.txt").write_text(error)
    assert last_error_line(trial("a", error_file=f"{tmp_path}/error.txt")) == line


def test_a_trial_without_an_error_file_failed_for_an_unknown_reason(tmp_path):
    assert (
        last_error_line(trial("a"))
        == last_error_line(trial("a", error_file=f"{tmp_path}/none.txt"))
        == "unknown"
    )
