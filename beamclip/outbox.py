"""What is to be written somewhere that may not answer for a while, kept in order until it is."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

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
        return self._error or (TimeoutError("it does not answer") if self._thread.is_alive() else None)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = self._take()
            if self._kept and (not goes_on or time.monotonic() >= self._due):
                self._try()

    def _take(self) -> bool:
        """Keep the next note that comes, or none by the time for another try. False where none will come any more."""
        try:
            new = self._new.get(timeout=max(0.0, self._due - time.monotonic()) if self._kept else None)
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
                failed, self._kept[trial_id] = error, notes  # now the last, so that the others come first another time
                if time.monotonic() - since > _SLOW:
                    break
            since = time.monotonic()
        self._tell(failed)

    def _tell(self, failed: Exception | None) -> None:
        before, self._error = self._error, failed
        if failed is not None and before is None:
            self._try_to_say(f"results can't be written for now ({first_line(failed)}); they are kept and tried again")
        elif failed is None and before is not None:
            self._try_to_say("results are written again, and none is lost")
        self._wait = 0.0 if failed is None else min(LONGEST_WAIT, max(FIRST_WAIT, 2 * self._wait))
        self._due = time.monotonic() + self._wait

    def _try_to_say(self, text: str) -> None:
        with suppress(Exception):  # where nobody listens any more, what is to be written still is
            self._say(text)


def first_line(error: Exception) -> str:
    """What an error says first; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
