"""From what trials say to the tracker and the bar, by one writer in the sweep's one process."""

import json
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from beamclip.config import UserError, cell, first_line, trial_count
from beamclip.stores.paths import asset_key, fetched_files, settings_text
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.progress import ProgressBars

# What is to be written somewhere that may not answer for a while, kept in order until it is.


Note = Callable[[], None]
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds until what failed is tried again: twice as many each time, up to the longest."""
_SLOW = 10.0  # seconds; a failure that took longer is a server that does not answer, and would keep each trial waiting as long


class Outbox:
    """Notes written by one thread. Each trial's are written in their order; one that fails holds up those of its own trial alone.

    Args:
        say: told once when writing begins to fail, and once when it works again.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._new: queue.Queue[tuple[str, Note] | None] = queue.Queue()
        self._kept: dict[str, deque[Note]] = {}
        self._error: Exception | None = None
        self._wait = self._due = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, trial_id: str, note: Note) -> None:
        """Have this written soon. A note may be called more than once, where it fails."""
        self._new.put((trial_id, note))

    def close(self, patience: float | None = None) -> Exception | None:
        """Wait until all is written, or has failed once more. Returns why, where something could not be written.

        Args:
            patience: seconds; whoever is to end soon can't wait until a server that does not answer has been asked again and again.
        """
        self._new.put(None)
        self._thread.join(patience)
        return self._error or (
            TimeoutError("it does not answer") if self._thread.is_alive() else None
        )

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = self._take()
            if self._kept and (not goes_on or time.monotonic() >= self._due):
                self._try()

    def _take(self) -> bool:
        """Keep the next note that comes, or none by the time for another try. False where none will come any more."""
        try:
            new = self._new.get(
                timeout=max(0.0, self._due - time.monotonic()) if self._kept else None
            )
        except queue.Empty:
            return True
        if new is not None:
            self._kept.setdefault(new[0], deque()).append(new[1])
        return new is not None

    def _try(self) -> None:
        failed, since = None, time.monotonic()
        for trial_id in list(self._kept):
            notes = self._kept.pop(trial_id)
            try:
                while notes:
                    notes[0]()
                    notes.popleft()
            except Exception as error:
                failed, self._kept[trial_id] = (
                    error,
                    notes,
                )  # now the last, so that the others come first another time
                if time.monotonic() - since > _SLOW:
                    break
            since = time.monotonic()
        self._tell(failed)

    def _tell(self, failed: Exception | None) -> None:
        before, self._error = self._error, failed
        if failed is not None and before is None:
            self._try_to_say(
                f"results can't be written for now ({first_line(failed)}); they are kept and tried again"
            )
        elif failed is None and before is not None:
            self._try_to_say("results are written again, and none is lost")
        self._wait = 0.0 if failed is None else min(LONGEST_WAIT, max(FIRST_WAIT, 2 * self._wait))
        self._due = time.monotonic() + self._wait

    def _try_to_say(self, text: str) -> None:
        with suppress(Exception):  # where nobody listens any more, what is to be written still is
            self._say(text)


Status = Literal["FINISHED", "FAILED", "KILLED"]
_HURRIED = 10.0  # seconds
_FILES = ("student.safetensors", "probe.safetensors", "evaluation.json", "predictions.safetensors")


class Recorder:
    """A sweep's listener.

    It only notes what happened; a thread writes it, in order, and again where that fails. Tune must not wait for the tracker: a callback
    of seconds can lock a trial (see docs/architecture.md).
    """

    def __init__(self, record: SweepRecord, tracker: Any, bars: ProgressBars) -> None:
        self.record, self.tracker, self.bars = record, tracker, bars
        self._done: dict[str, int] = {}
        self._trials, self._whole = trial_count(record.sweep), record.base.optimiser.epochs + 1
        self._runs: dict[str, str] = {}
        self._outbox = Outbox(bars.say)

    def on_restore(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """What an earlier session did. Where it couldn't write how a trial ended, that is made up for."""
        self._done |= dict.fromkeys(results, self._whole)
        for trial_id, result in results.items():
            self._outbox.put(trial_id, partial(self._catch_up, trial_id, result))

    def started(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """A trial starts or goes on. Its processes take a while to, so that the bar says so."""
        self._outbox.put(trial_id, lambda: self._open(trial_id, values))
        self._move(trial_id, self._done.get(trial_id, 0))
        self.bars.note(f"{len(self._done)} of {self._trials} trials begun")

    def reported(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        """An epoch ended, or the evaluation did."""
        now, kept = int(time.time() * 1000), dict(metrics)
        self._outbox.put(trial_id, lambda: self._log(trial_id, kept, now))
        self._move(trial_id, int(metrics.get("epoch", 0)) + ("linear_probe/test_top1" in metrics))

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        """A trial is over."""
        self._outbox.put(trial_id, lambda: self.tracker.trial_finished(trial_id, status, error))
        self._move(trial_id, self._whole)
        if error:
            self.bars.say(f"trial {trial_id} failed: {error}")

    def close(self, ended: bool = True) -> None:
        """Wait until all is written; not for long where the sweep was interrupted, which schedulers follow with SIGKILL.

        Args:
            ended: by itself. Else what is on its way says more than that results could not be written, which is printed only.

        Raises:
            UserError: the tracker failed, and did so to the end; the trials' own checkpoints are kept.
        """
        if (error := self._outbox.close(None if ended else _HURRIED)) is None:
            return
        reason = f"results can't be written any more: {first_line(error)}; mend the tracking server and go on with --resume"
        if ended:
            raise UserError(reason)
        self.bars.say(f"beamclip: WARNING: {reason}")

    def _move(self, trial_id: str, done: int) -> None:
        self._done[trial_id] = done
        self.bars("epochs and probes", sum(self._done.values()), self._trials * self._whole)

    def _catch_up(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if self.tracker.is_over(trial_id):
            return
        self._open(trial_id, result["values"])
        self._log(trial_id, result, int(1000 * result.get("timestamp", time.time())))
        failure = result.get("failure")
        self.tracker.trial_finished(trial_id, "FAILED" if failure else "FINISHED", failure)

    def _open(self, trial_id: str, values: Mapping[str, Any]) -> None:
        experiment = cell(self.record.sweep, self.record.base, values)
        facts = json.loads(self.record.assets[asset_key(experiment)])["facts"]
        tags = {name: str(facts[name]) for name in ("data_key", "teacher_fingerprint")} | {
            "anchors_hash": facts["anchors"]["hash"]
        }
        run_id = self._runs[trial_id] = self.tracker.trial(trial_id, values, experiment, tags)
        self.tracker.client.log_text(run_id, settings_text(experiment), "config.yaml")
        self.tracker.client.log_text(run_id, json.dumps(facts["anchors"], indent=1), "anchors.json")
        if "balance" in facts:
            self.tracker.client.log_text(
                run_id, json.dumps(facts["balance"], indent=1), "balance.json"
            )

    def _log(self, trial_id: str, metrics: Mapping[str, Any], now: int) -> None:
        history = [(key, value, step, now) for key, value, step in metrics.get("history", ())]
        numbers = {
            key: float(value)
            for key, value in metrics.items()
            if "/" in key and isinstance(value, int | float)
        }
        self.tracker.trial_metrics(trial_id, numbers, int(metrics.get("epoch", 0)), history)
        if "evidence" in metrics:
            self.tracker.client.log_text(self._runs[trial_id], metrics["evidence"], "diverged.json")
        if "linear_probe/test_top1" in metrics and metrics.get("checkpoint_path"):
            self._keep_files(trial_id, metrics["checkpoint_path"])

    def _keep_files(self, trial_id: str, checkpoint: str) -> None:
        """Copy student, probe and evaluation into the run, from wherever the checkpoint lies; earlier versions left no evaluation."""
        with tempfile.TemporaryDirectory() as temporary:
            files = fetched_files(self.record.folder, checkpoint, _FILES, Path(temporary))
            for file in files:
                self.tracker.trial_artifact(trial_id, file)
        if not files:
            self.bars.say(
                f"beamclip: WARNING: no student lies in {checkpoint}, so that MLflow keeps none of trial {trial_id}"
            )


def facts_of(record: SweepRecord) -> dict[str, Any]:
    """Facts about the stores of a sweep's first trial."""
    facts: dict[str, Any] = json.loads(next(iter(record.assets.values())))["facts"]
    return facts
