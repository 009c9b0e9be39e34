"""Writing into runs by their ids, and remembering which are still running."""

import time
from collections.abc import Iterable, Mapping
from typing import Literal

from mlflow import MlflowClient

from beamclip.tracking import entries
from beamclip.tracking.entries import Point

Status = Literal["FINISHED", "FAILED", "KILLED"]


class RunWriter:
    """One client, many runs; MLflow's fluent "active run" is never used."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.running: set[str] = set()

    def start(self, run_id: str, params: Mapping[str, str]) -> None:
        """RUNNING, with the params it lacks: they never change, but a kill may have come before they were written."""
        data = self.client.get_run(run_id).data
        missing = {key: value for key, value in params.items() if key not in data.params}
        for batch in entries.param_batches(missing):
            self.client.log_batch(run_id, params=batch)
        if "beamclip.error" in data.tags:
            self.client.delete_tag(run_id, "beamclip.error")
        self.client.update_run(run_id, status="RUNNING")
        self.running.add(run_id)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int, history: Iterable[Point] = ()) -> None:
        """Points in lots; NaN and inf are left out, and a tag says where the first of this call was."""
        now = int(time.time() * 1000)
        finite, others = entries.split_finite([*history, *((key, value, step, now) for key, value in metrics.items())])
        for batch in entries.metric_batches(finite):
            self.client.log_batch(run_id, metrics=batch)
        if others:
            key, value, at, _ = others[0]
            self.client.set_tag(run_id, "beamclip.non_finite", f"{key} was {value} at step {at}")

    def end(self, run_id: str, status: Status, error: str | None = None) -> None:
        """The run's last word, and the error that ended it."""
        if error:
            self.client.set_tag(run_id, "beamclip.error", error[: entries.TAG_LENGTH])
        self.client.set_terminated(run_id, status)
        self.running.discard(run_id)
