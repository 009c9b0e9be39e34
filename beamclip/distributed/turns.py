"""Trials that train at once where Tune does not see to it: all that it restores, it starts."""

import time
from typing import Any

import ray
import ray.tune

_POLL = 1.0  # seconds


class Turns:
    """Who may train. An actor of the sweep's own process.

    Args:
        count: trials at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: set[str] = set()

    def take(self, trial_id: str) -> bool:
        """Whether this trial may train now. One that was tried again after a loss still has its turn."""
        if len(self._taken - {trial_id}) < self._count:
            self._taken.add(trial_id)
        return trial_id in self._taken

    def end(self, trial_id: str) -> None:
        """This trial is over."""
        self._taken.discard(trial_id)


def open_turns(name: str, count: int) -> Any:
    """The actor, which lives as long as what is returned."""
    return ray.remote(Turns).options(name=name, num_cpus=0).remote(count)


def wait_for_turn(name: str) -> None:
    """Wait, in a trial, until it may train. Where the actor is lost, all may."""
    try:
        turns, trial_id = ray.get_actor(name), ray.tune.get_context().get_trial_id()
        while not ray.get(turns.take.remote(trial_id)):
            time.sleep(_POLL)
    except (ValueError, ray.exceptions.RayError):
        return
