import threading
import time

import pytest

from beamclip.sweep import recorder as outbox
from beamclip.sweep.recorder import Outbox


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(outbox, "LONGEST_WAIT", 0.05)


class Server:
    """Fails while it is `down`, and for some trials always."""

    def __init__(self, broken=()):
        self.written, self.broken, self.down, self.tries = [], broken, threading.Event(), 0

    def note(self, trial_id, word):
        def write():
            self.tries += 1
            if self.down.is_set() or trial_id in self.broken:
                raise ConnectionError("refused\nat length")
            self.written.append((trial_id, word))

        return trial_id, write


def until(what):
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_failed_is_written_when_the_server_is_back_and_in_order():
    server, said = Server(), []
    server.down.set()
    box = Outbox(said.append)
    for word in ("one", "two"):
        box.put(*server.note("a", word))
    until(lambda: server.tries > 2)
    server.down.clear()
    until(lambda: len(server.written) == 2)
    assert box.close() is None
    assert server.written == [("a", "one"), ("a", "two")]
    assert said == [
        "results can't be written for now (refused); they are kept and tried again",
        "results are written again, and none is lost",
    ]


def test_what_one_trial_cannot_write_holds_up_no_other():
    server = Server(broken=("a",))
    box = Outbox(lambda text: None)
    for trial_id in "abc":
        box.put(*server.note(trial_id, "word"))
    until(lambda: len(server.written) == 2)
    assert isinstance(box.close(), ConnectionError)
    assert server.written == [("b", "word"), ("c", "word")]


def test_at_the_end_all_is_tried_once_more(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_WAIT", 60)
    server = Server()
    server.down.set()
    box = Outbox(lambda text: None)
    box.put(*server.note("a", "word"))
    until(lambda: server.tries == 1)
    server.down.clear()
    assert box.close() is None
    assert server.written == [("a", "word")]


def test_a_server_that_takes_long_to_fail_is_not_asked_for_every_trial(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_WAIT", 60)
    monkeypatch.setattr(outbox, "_SLOW", -1)
    server = Server()
    server.down.set()
    box = Outbox(lambda text: None)
    for trial_id in "abc":
        box.put(*server.note(trial_id, "word"))
    until(lambda: server.tries == 1)
    assert box.close() is not None
    assert server.tries == 2 and not server.written


def test_whoever_must_end_soon_does_not_wait_for_a_server_that_does_not_answer():
    answers, box = threading.Event(), Outbox(lambda text: None)
    box.put("a", answers.wait)
    began = time.monotonic()
    assert isinstance(box.close(patience=0.1), TimeoutError)
    assert time.monotonic() - began < 5
    answers.set()


def test_where_nobody_can_be_told_all_is_written_still():
    def deaf(text):
        raise BrokenPipeError

    server = Server()
    server.down.set()
    box = Outbox(deaf)
    box.put(*server.note("a", "word"))
    until(lambda: server.tries > 1)
    server.down.clear()
    until(lambda: server.written)
    assert box.close() is None
