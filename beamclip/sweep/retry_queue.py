"""A queue of writes to a server that may be down for a while: failed writes are retried."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from beamclip.config import first_line

Write = Callable[[], None]
# The delay before a retry doubles with each failure, up to the longest.
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
# A failure that takes longer means that the server doesn't answer. The writes of each other trial
# would take as long to fail, so they are not tried before the next attempt.
_SLOW_FAILURE_SECONDS = 10.0


class RetryQueue:
    """Runs writes in a thread, the writes of each trial in order, and retries those that fail.

    A write that fails delays only later writes of the same trial.

    Args:
        say: prints a line. Called when writes start to fail, and when they work again.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._incoming: queue.Queue[tuple[str, Write] | None] = queue.Queue()
        self._pending: dict[str, deque[Write]] = {}
        self._error: Exception | None = None
        self._delay = 0.0
        self._next_attempt = 0.0
        # A daemon, so that a write that hangs can't keep the process from exiting.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, trial_id: str, write: Write) -> None:
        """Add a write of a trial. It is called again if it raises, so it must be repeatable."""
        self._incoming.put((trial_id, write))

    def close(self, timeout: float | None = None) -> Exception | None:
        """Try all writes once more without delay, and wait until that is done.

        Args:
            timeout: seconds to wait at most; None: no limit.

        Returns:
            An error if something was not written, else None.
        """
        # None ends the thread.
        self._incoming.put(None)
        self._thread.join(timeout)
        if self._error is None and self._thread.is_alive():
            return TimeoutError("it does not answer")
        return self._error

    def _run(self) -> None:
        is_open = True
        while is_open:
            is_open = self._receive()
            # The last attempt, after `close`, does not wait for its time.
            if self._pending and (not is_open or time.monotonic() >= self._next_attempt):
                self._write_pending()

    def _receive(self) -> bool:
        """Wait for the next write, or until it is time for a retry.

        Returns:
            False once the queue is closed.
        """
        # With nothing to retry, wait without a limit.
        timeout = None
        if self._pending:
            timeout = max(0.0, self._next_attempt - time.monotonic())
        try:
            item = self._incoming.get(timeout=timeout)
        except queue.Empty:
            return True
        if item is None:
            return False
        trial_id, write = item
        self._pending.setdefault(trial_id, deque()).append(write)
        return True

    def _write_pending(self) -> None:
        """Attempt all pending writes, and set the time of the next attempt."""
        failure: Exception | None = None
        for trial_id in list(self._pending):
            start = time.monotonic()
            writes = self._pending.pop(trial_id)
            try:
                while writes:
                    writes[0]()
                    # A write is removed only after it has succeeded.
                    writes.popleft()
            except Exception as error:
                failure = error
                # Put the trial at the end of the dict, so that the others come first next time.
                self._pending[trial_id] = writes
                if time.monotonic() - start > _SLOW_FAILURE_SECONDS:
                    break
        self._report(failure)
        if failure is None:
            self._delay = 0.0
        else:
            doubled = max(FIRST_DELAY_SECONDS, 2 * self._delay)
            self._delay = min(LONGEST_DELAY_SECONDS, doubled)
        self._next_attempt = time.monotonic() + self._delay

    def _report(self, failure: Exception | None) -> None:
        """Remember how the last attempt went. Print a line when failures start or end."""
        previous = self._error
        self._error = failure
        # The thread must keep writing even if printing fails.
        with suppress(Exception):
            if failure is not None and previous is None:
                self._say(
                    f"results can't be written for now ({first_line(failure)}); "
                    "they are kept and tried again"
                )
            elif failure is None and previous is not None:
                self._say("results are written again, and none is lost")
