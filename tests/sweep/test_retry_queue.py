import threading
import time

import pytest

from beamclip.sweep import retry_queue
from beamclip.sweep.retry_queue import RetryQueue


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(retry_queue, "FIRST_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(retry_queue, "LONGEST_DELAY_SECONDS", 0.05)


class Server:
    """Writes fail while the server is `down`; writes of trials in `broken` always fail."""

    def __init__(self, broken=()):
        self.written = []
        self.broken = broken
        self.down = threading.Event()
        self.tries = 0

    def write_of(self, trial_id, word):
        def write():
            self.tries += 1
            if self.down.is_set() or trial_id in self.broken:
                raise ConnectionError("refused\nat length")
            self.written.append((trial_id, word))

        return trial_id, write


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_failed_writes_are_retried_in_order():
    server = Server()
    lines = []
    server.down.set()
    writes = RetryQueue(lines.append)
    for word in ("one", "two"):
        writes.put(*server.write_of("a", word))
    wait_until(lambda: server.tries > 2)
    server.down.clear()
    wait_until(lambda: len(server.written) == 2)
    assert writes.close() is None
    assert server.written == [("a", "one"), ("a", "two")]
    assert lines == [
        "results can't be written for now (refused); they are kept and tried again",
        "results are written again, and none is lost",
    ]


def test_a_failing_trial_delays_no_other():
    server = Server(broken=("a",))
    writes = RetryQueue(lambda text: None)
    for trial_id in "abc":
        writes.put(*server.write_of(trial_id, "word"))
    wait_until(lambda: len(server.written) == 2)
    assert isinstance(writes.close(), ConnectionError)
    assert server.written == [("b", "word"), ("c", "word")]


def test_closing_tries_all_writes_once_more(monkeypatch):
    monkeypatch.setattr(retry_queue, "FIRST_DELAY_SECONDS", 60)
    server = Server()
    server.down.set()
    writes = RetryQueue(lambda text: None)
    writes.put(*server.write_of("a", "word"))
    wait_until(lambda: server.tries == 1)
    server.down.clear()
    assert writes.close() is None
    assert server.written == [("a", "word")]


def test_after_a_slow_failure_the_other_trials_are_not_tried(monkeypatch):
    monkeypatch.setattr(retry_queue, "FIRST_DELAY_SECONDS", 60)
    monkeypatch.setattr(retry_queue, "_SLOW_FAILURE_SECONDS", -1)
    server = Server()
    server.down.set()
    writes = RetryQueue(lambda text: None)
    for trial_id in "abc":
        writes.put(*server.write_of(trial_id, "word"))
    wait_until(lambda: server.tries == 1)
    assert writes.close() is not None
    assert server.tries == 2 and not server.written


def test_closing_with_a_timeout_does_not_wait_for_a_server():
    answers = threading.Event()
    writes = RetryQueue(lambda text: None)
    writes.put("a", answers.wait)
    began = time.monotonic()
    assert isinstance(writes.close(timeout=0.1), TimeoutError)
    assert time.monotonic() - began < 5
    answers.set()


def test_all_is_written_even_if_printing_fails():
    def fail_to_print(text):
        raise BrokenPipeError

    server = Server()
    server.down.set()
    writes = RetryQueue(fail_to_print)
    writes.put(*server.write_of("a", "word"))
    wait_until(lambda: server.tries > 1)
    server.down.clear()
    wait_until(lambda: server.written)
    assert writes.close() is None
