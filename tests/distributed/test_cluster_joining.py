import os
import signal
import socket

import pytest

from beamclip.config import UserError
from beamclip.distributed.cluster import connect


def test_an_address_that_nobody_answers_at_is_a_sentence_within_seconds(monkeypatch):
    with socket.socket() as closed:  # bound but not listening
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"the Ray cluster {address} doesn't answer"):
            connect()


def test_a_cluster_that_takes_nobody_in_is_a_sentence(monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("nobody is there\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(
        UserError, match=r"the Ray cluster auto can't be joined \(nobody is there\)"
    ):
        connect()


def test_where_ray_cannot_start_its_processes_it_is_a_sentence(monkeypatch):
    import ray

    def refuse(**options):
        raise PermissionError(13, "Permission denied", "/usr/bin/python3")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(
        UserError,
        match=r"Ray can't be started on this machine \(.*Permission denied.*\); its logs in /tmp/ray say more",
    ):
        connect()


def test_what_a_sigterm_does_stays_the_programs_to_say(monkeypatch):
    import ray

    heard = []
    monkeypatch.setattr(
        ray,
        "init",
        lambda **options: signal.signal(signal.SIGTERM, lambda *_: heard.append("Ray's")),
    )
    monkeypatch.setenv("RAY_ADDRESS", "local")
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("ours"))
    try:
        connect()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["ours"]
