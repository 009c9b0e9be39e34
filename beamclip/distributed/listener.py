"""The interface for receiving the events of a sweep's trials. Imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from beamclip.stores.status import RunStatus


@dataclass(frozen=True)
class RestoredTrial:
    """A trial that ended in an earlier session of a resumed sweep.

    Attributes:
        values: dotted settings in which the trial differs from the sweep's base experiment.
        report: last report of the trial, with metrics and Tune's own entries; empty if there was
            none.
    """

    values: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)


class Listener(Protocol):
    """Receives the events of all trials in the driver's process, in the order they happen."""

    def on_restore(self, trials: Mapping[str, RestoredTrial]) -> None:
        """Receive the trials that ended in earlier sessions. Called once, before all others."""

    def on_trial_start(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """Receive a trial that starts, or that continues after a resume or a lost process."""

    def on_trial_result(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        """Receive a report: one per epoch, then a last one with `linear_probe/...` metrics."""

    def on_trial_end(self, trial_id: str, status: RunStatus, error: str | None) -> None:
        """Receive the end of a trial. Trials that ASHA stops early are FINISHED as well."""
