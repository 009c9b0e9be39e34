"""What the sweep tells its listener, and how it knows whether it ended by itself, without a Ray."""

from types import SimpleNamespace

import pytest

from beamclip.config import Sweep, UserError, cell, choice, load_experiment, start_of, with_values
from beamclip.distributed import tune as sweeps
from beamclip.distributed.callback import FINAL, SweepCallback, last_line
from beamclip.distributed.student_handoff import StudentHandoff
from beamclip.distributed.tune import run_trials
from beamclip.stores.sweep_record import SweepRecord

SWEEP = Sweep(name="s", space={"seed": choice(1, 2)})


class Listener:
    def __init__(self):
        self.heard = []

    def on_restore(self, results):
        if results:
            self.heard.append(("over before", *sorted(results)))
            self.results = results

    def started(self, trial_id, values):
        self.heard.append(("started", trial_id, values))

    def reported(self, trial_id, metrics):
        self.heard.append(("reported", trial_id))

    def ended(self, trial_id, status, error):
        self.heard.append(("ended", trial_id, status, error))


def trial(trial_id, finished=False, error_file=None):
    known = {
        "config": {"values": {"seed": 1}},
        "is_finished": lambda: finished,
        "error_file": error_file,
    }
    return SimpleNamespace(
        trial_id=trial_id, last_result={"epoch": 3}, num_failures=1, max_failures=2, **known
    )


class Results(list):
    """As Tune's: what each trial that ended said last."""

    def __init__(self, metrics):
        super().__init__(SimpleNamespace(metrics=one) for one in metrics)
        self.num_terminated = len(self)


@pytest.fixture
def ended_by_itself(monkeypatch, tmp_path):
    """`ended_by_itself(steps)`: what `run_trials` of a sweep of two says if Tune's run goes like this."""

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
        monkeypatch.setattr(sweeps, "_new_tuner", lambda *arguments: tuner)
        monkeypatch.setattr(sweeps, "trainable", lambda record, turns=None: None)
        listener = Listener()
        return run_trials(record, listener, concurrent=1, resume=False), listener.heard

    return run


def test_a_sweep_ended_when_all_its_trials_did_however_they_did(ended_by_itself, tmp_path):
    (tmp_path / "error.txt").write_text("Traceback…\n\nValueError: no luck\n")

    def steps(relay):
        a, b = trial("a"), trial("b", error_file=f"{tmp_path}/error.txt")
        relay.on_step_begin(0, [])
        relay.on_trial_start(0, [], a)
        relay.on_trial_result(0, [], a, {})
        relay.on_trial_complete(0, [], a)
        relay.on_trial_start(0, [], b)
        relay.on_trial_error(0, [], b)  # before it reported anything

    by_itself, heard = ended_by_itself(steps)
    assert by_itself
    assert heard == [
        ("started", "a", {"seed": 1}), ("reported", "a"), ("ended", "a", "FINISHED", None),
        ("started", "b", {"seed": 1}), ("ended", "b", "FAILED", "ValueError: no luck"),
    ]  # fmt: skip


def test_a_run_that_said_why_it_cannot_go_on_has_failed(ended_by_itself):
    def steps(relay):
        relay.on_step_begin(0, [])
        for name, result in (
            ("a", {"failure": "the loss stopped being a number"}),
            ("b", {"epoch": 1}),
        ):
            relay.on_trial_start(0, [], trial(name))
            relay.on_trial_result(0, [], trial(name), result)
            relay.on_trial_complete(0, [], trial(name))

    by_itself, heard = ended_by_itself(steps)
    assert by_itself
    assert [note for note in heard if note[0] == "ended"] == [
        ("ended", "a", "FAILED", "the loss stopped being a number"), ("ended", "b", "FINISHED", None),
    ]  # fmt: skip


def test_nobody_waits_for_a_trial_whose_process_was_lost_for_good(ended_by_itself, tmp_path):
    def steps(relay):
        relay.on_step_begin(0, [])
        relay.on_trial_start(0, [], trial("a"))
        relay.on_trial_error(0, [], trial("a"))

    ended_by_itself(steps)
    record = SweepCallback.record
    with pytest.raises(UserError, match="has failed"):
        StudentHandoff(record.folder, record.base).wait_for(with_values(record.base, {"seed": 1}))


def test_a_trial_that_is_over_without_a_student_is_not_waited_for_by_those_that_start_again(
    ended_by_itself,
):
    variants = {"first": {"optimiser.lr": 1.0}, "second": {"student.init": "variant:first"}}
    sweep = Sweep(
        name="s", variants=variants, space={"variant": choice(*variants), "seed": choice(1)}
    )

    def steps(relay):
        over = trial("a", finished=True)
        over.config["values"] = {"variant": "first", "seed": 1}
        relay.on_step_begin(7, [over, trial("b")])

    ended_by_itself(steps, sweep=sweep)
    waiting = cell(sweep, SweepCallback.record.base, {"variant": "second", "seed": 1})
    with pytest.raises(UserError, match="has failed"):
        StudentHandoff(SweepCallback.record.folder, waiting).wait_for(
            start_of(sweep, SweepCallback.record.base, {"variant": "second", "seed": 1})
        )


def test_a_lost_process_is_tried_again_as_often_as_scaling_says_and_a_final_error_never(
    ended_by_itself,
):
    one = trial("a")

    def steps(relay):
        relay.on_step_begin(0, [])
        relay.on_trial_start(0, [], one)
        assert one.max_failures == 1 + 2  # an earlier session's failure does not count
        one.num_failures += 1
        relay.on_trial_start(0, [], one)
        assert one.max_failures == 1 + 2
        relay.on_trial_result(0, [], one, {FINAL: True})
        assert one.max_failures == 0

    _, heard = ended_by_itself(steps)
    assert [note[0] for note in heard] == ["started", "started"]


def test_a_trial_that_never_started_or_never_ended_was_interrupted(ended_by_itself):
    def steps(relay):
        relay.on_step_begin(0, [])
        relay.on_trial_start(0, [], trial("a"))
        relay.on_trial_complete(0, [], trial("a"))
        relay.on_trial_start(0, [], trial("b"))

    assert not ended_by_itself(steps)[0]
    assert not ended_by_itself(lambda relay: None)[0]


def test_where_all_had_ended_before_tune_takes_no_step(ended_by_itself):
    assert ended_by_itself(lambda relay: None, terminated=2) == (True, [("over before", "a", "b")])
    assert (
        SweepCallback.listener.results["b"].items() >= {"epoch": 3, "values": {"seed": 1}}.items()
    )
    assert not ended_by_itself(lambda relay: None, terminated=1)[0]


def test_what_an_earlier_session_finished_counts_and_is_not_told_again(ended_by_itself):
    def steps(relay):
        relay.on_step_begin(7, [trial("a", finished=True), trial("b")])
        relay.on_trial_start(7, [], trial("b"))
        relay.on_trial_complete(7, [], trial("b"))

    by_itself, heard = ended_by_itself(steps)
    assert by_itself
    assert [note[:2] for note in heard] == [("over before", "a"), ("started", "b"), ("ended", "b")]
    assert SweepCallback.listener.results == {"a": {"epoch": 3, "values": {"seed": 1}}}


def test_a_second_interruption_before_the_unfinished_trial_started_again_is_one(ended_by_itself):
    def steps(relay):
        relay.on_step_begin(7, [trial("a", finished=True), trial("b")])

    assert not ended_by_itself(steps)[0]


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
def test_why_a_trial_failed_is_a_line(error, line, tmp_path):
    (tmp_path / "error.txt").write_text(error)
    assert last_line(trial("a", error_file=f"{tmp_path}/error.txt")) == line


def test_a_trial_that_left_no_reason_failed_all_the_same(tmp_path):
    assert (
        last_line(trial("a"))
        == last_line(trial("a", error_file=f"{tmp_path}/none.txt"))
        == "unknown"
    )
