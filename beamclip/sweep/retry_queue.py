"""A queue of writes to a server that may not answer for a while: they are kept and retried."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from beamclip.config import first_line

Write = Callable[[], None]
# The delay before a retry doubles each time, up to the longest.
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
# A failure that took longer means that the server doesn't answer. Trying the other trials as well
# would take as long for each of them.
_SLOW_FAILURE_SECONDS = 10.0


class RetryQueue:
    """Runs writes in a thread: those of one trial in order, and again if they fail.

    A failing write holds up only those of its own trial.

    Args:
        say: prints a line. Called once when writing starts to fail, and once when it works again.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._incoming: queue.Queue[tuple[str, Write] | None] = queue.Queue()
        self._pending: dict[str, deque[Write]] = {}
        self._error: Exception | None = None
        self._delay = 0.0
        self._next_attempt = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, trial_id: str, write: Write) -> None:
        """Add a write. It may be called more than once, if it fails."""
        self._incoming.put((trial_id, write))

    def close(self, timeout: float | None = None) -> Exception | None:
        """Wait until all is written, or has failed once more.

        Args:
            timeout: seconds to wait at most.

        Returns:
            The error, if something was not written.
        """
        self._incoming.put(None)
        self._thread.join(timeout)
        if self._error is None and self._thread.is_alive():
            return TimeoutError("it does not answer")
        return self._error

    def _run(self) -> None:
        is_open = True
        while is_open:
            is_open = self._receive()
            if self._pending and (not is_open or time.monotonic() >= self._next_attempt):
                self._write_pending()

    def _receive(self) -> bool:
        """Take the next write, unless none comes until it is time for a retry.

        Returns:
            False once the queue is closed.
        """
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
        failure: Exception | None = None
        for trial_id in list(self._pending):
            start = time.monotonic()
            writes = self._pending.pop(trial_id)
            try:
                while writes:
                    writes[0]()
                    writes.popleft()
            except Exception as error:
                failure = error
                # Put it back at the end, so that the other trials come first next time.
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
        before = self._error
        self._error = failure
        # If printing fails, the thread must keep writing.
        with suppress(Exception):
            if failure is not None and before is None:
                self._say(
                    f"results can't be written for now ({first_line(failure)}); "
                    "they are kept and tried again"
                )
            elif failure is None and before is not None:
                self._say("results are written again, and none is lost")
