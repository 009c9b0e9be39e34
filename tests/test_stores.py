import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from beamclip.config import UserError
from beamclip.stores import Shards, build_once, file_hash, key_of, make_folder, open_store, store_path


def fill(folder):
    np.save(folder / "numbers.npy", np.arange(10))
    return {"count": 10}


def test_a_key_depends_on_every_part_and_on_no_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 16


def test_a_store_is_built_once_and_describes_itself(tmp_path):
    calls = []

    def build(folder):
        calls.append(1)
        return fill(folder)

    first = build_once(tmp_path, "things", {"x": 1}, build)
    second = build_once(tmp_path, "things", {"x": 1}, build)
    assert len(calls) == 1
    assert first == second
    assert first.manifest["count"] == 10
    assert first.manifest["parts"] == {"x": 1}
    assert first.manifest["files"]["numbers.npy"]["sha256"] == file_hash(first.file("numbers.npy"))


def test_a_builder_that_fails_leaves_no_store(tmp_path):
    def build(folder):
        fill(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        build_once(tmp_path, "things", {}, build)
    assert not store_path(tmp_path, "things", {}).exists()
    assert build_once(tmp_path, "things", {}, fill).manifest["count"] == 10


def test_finished_shards_are_not_built_again_after_a_kill_and_damaged_ones_are(tmp_path):
    built = []

    def build(folder, fail_at=None):
        shards = Shards(folder)
        for name in ("a", "b", "c"):
            if not shards.is_finished(name):
                if name == fail_at:
                    raise KeyboardInterrupt
                (folder / "tmp").write_text(name * 100)
                shards.finish(name, folder / "tmp")
                built.append(name)
        return {}

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path, "things", {}, lambda folder: build(folder, "c"))
    partial = next((tmp_path / "things").glob(".*.partial"))
    (partial / "a").write_text("something else")
    store = build_once(tmp_path, "things", {}, build)
    assert built == ["a", "b", "a", "c"]
    assert store.file("a").read_text() == "a" * 100
    assert sorted(store.manifest["files"]) == ["a", "b", "c"]


def slow_build(root, log):
    def build(folder):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return fill(folder)

    build_once(root, "things", {"same": True}, build)


def test_two_processes_build_the_same_store_once(tmp_path):
    log = tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=slow_build, args=(tmp_path, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(log.read_text().split()) == 1


def test_a_store_cut_short_is_named_and_never_used(tmp_path):
    store = build_once(tmp_path, "things", {}, fill)
    store.file("numbers.npy").write_bytes(b"short")
    with pytest.raises(UserError, match=r"numbers.npy has 5 bytes instead of"):
        build_once(tmp_path, "things", {}, fill)


def test_another_format_version_and_a_lost_manifest_are_sentences(tmp_path):
    store = build_once(tmp_path, "things", {}, fill)
    manifest = store.file("manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))
    with pytest.raises(UserError, match="store format 0"):
        open_store(store.path)
    manifest.unlink()
    with pytest.raises(UserError, match=r"no readable manifest.json"):
        open_store(store.path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--storage"):
        make_folder(tmp_path / "file" / "below")
