import errno
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from filelock import FileLock

from beamclip.config import UserError
from beamclip.stores import (
    Shards,
    StoreDamaged,
    build_once,
    in_process,
    load_or_make_plan,
    partial_path,
    run_shards,
    silent,
    store_path,
)


class Numbers:
    """A store of four shards and one file over all. The job records what it wrote."""

    sizes = (10,) * 4
    label = "numbers"
    on_device = False

    def __init__(self, fail_at=-1, error=KeyboardInterrupt):
        self.written, self.fail_at, self.error = [], fail_at, error

    def open(self, folder, threads):
        return lambda index: self.write(folder, index)

    def write(self, folder, index):
        if index == self.fail_at:
            raise self.error
        np.save(folder / f"{index}.tmp.npy", np.arange(10) + index)
        Shards(folder).finish(
            index, {f"{index}.npy": folder / f"{index}.tmp.npy"}, {"index": index}
        )
        self.written.append(index)

    def __call__(self, folder):
        total = sum(record["index"] for record in run_shards(self, folder, in_process, silent))
        (folder / "total.txt").write_text(str(total))
        return {"count": 40}


def build(root, job, **options):
    return build_once(root, "things", {"x": 1}, job, **options)


def content(store):
    return {
        str(p.relative_to(store.path)): p.read_bytes()
        for p in store.path.rglob("*")
        if p.is_file() and p.name != "stamps.json"
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_store_is_built_once(tmp_path):
    job, again = Numbers(), Numbers()
    first, second = build(tmp_path, job), build(tmp_path, again)
    assert job.written == [0, 1, 2, 3] and again.written == [] and first == second
    files = set(first.manifest["files"])
    assert files == {
        "total.txt",
        *(f"{n}.npy" for n in range(4)),
        *(f"shards/0000{n}.json" for n in range(4)),
    }


def test_a_killed_build_is_continued_and_the_bytes_are_the_same(tmp_path):
    whole = build(tmp_path / "whole", Numbers())
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "killed", Numbers(fail_at=2))
    assert not store_path(tmp_path / "killed", "things", {"x": 1}).exists()
    job = Numbers()
    resumed = build(tmp_path / "killed", job)
    assert job.written == [2, 3] and content(resumed) == content(whole)


@pytest.mark.parametrize("name", ["1.npy", "shards/00001.json"])
def test_repair_rebuilds_only_the_damaged_shard(tmp_path, name):
    store = build(tmp_path, Numbers())
    before = content(store)
    flip(store.file(name))
    with pytest.raises(StoreDamaged, match=name):
        build(tmp_path, Numbers())
    job = Numbers()
    assert content(build(tmp_path, job, repair=True)) == before
    assert job.written == [1]


def test_repair_rebuilds_a_file_over_all_shards_without_rebuilding_shards(tmp_path):
    store = build(tmp_path, Numbers())
    before, job = content(store), Numbers()
    store.file("total.txt").unlink()
    assert content(build(tmp_path, job, repair=True)) == before and job.written == []


def test_repair_of_an_undamaged_store_does_nothing(tmp_path):
    store, job = build(tmp_path, Numbers()), Numbers()
    stamp = store.file("manifest.json").stat().st_mtime_ns
    assert (
        build(tmp_path, job, repair=True).file("manifest.json").stat().st_mtime_ns == stamp
        and job.written == []
    )


def test_a_killed_repair_is_continued(tmp_path):
    store = build(tmp_path, Numbers())
    before = content(store)
    flip(store.file("1.npy"))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Numbers(fail_at=1), repair=True)
    job = Numbers()
    assert content(build(tmp_path, job)) == before and job.written == [1]


def test_repair_rebuilds_a_store_of_an_older_format(tmp_path):
    store = build(tmp_path, Numbers())
    manifest = store.file("manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    job = Numbers()
    assert build(tmp_path, job, repair=True).manifest["format"] == 2 and job.written == [0, 1, 2, 3]


def test_decisions_of_a_builder_are_kept_for_the_one_that_continues(tmp_path):
    tmp_path.joinpath("x").mkdir()
    assert load_or_make_plan(tmp_path / "x", lambda: {"batch_size": 32}) == {"batch_size": 32}
    assert load_or_make_plan(tmp_path / "x", lambda: pytest.fail("asked again")) == {
        "batch_size": 32
    }


def test_temporary_files_of_killed_writers_are_removed_and_not_part_of_the_store(tmp_path):
    partial = partial_path(store_path(tmp_path, "things", {"x": 1}))
    (partial / "shards").mkdir(parents=True)
    for name in (
        "0.tmp.npy",
        "images.npy.tmp",
        ".images.npy.0123.tmp",
        "shards/.00000.json.0123.tmp",
    ):
        (partial / name).write_bytes(b"half")
    seen = []

    def look(folder):
        seen.extend(folder.rglob("*tmp*"))
        (folder / ".late.npy.0123.tmp").write_bytes(b"half")
        return {}

    store = build_once(tmp_path, "things", {"x": 1}, look)
    assert seen == [] and not [name for name in content(store) if "tmp" in name]


def test_a_full_disk_is_a_user_error_and_finished_shards_stay(tmp_path):
    with pytest.raises(UserError, match="is full; finished shards are kept"):
        build(tmp_path, Numbers(fail_at=3, error=OSError(errno.ENOSPC, "No space left on device")))
    job = Numbers()
    build(tmp_path, job)
    assert job.written == [3]


def test_packing_that_fills_the_disk_is_a_user_error(small_disk, data_config, tmp_path):
    """Shards of 64 images of 32 px take 200 kB each.

    Three of them and their records do not fit next to the file that fills the disk.
    """
    from beamclip.data import pack

    (small_disk / "filler").write_bytes(b"x" * 600_000)
    with pytest.raises(
        UserError, match=f"the disk of {small_disk}.* is full; finished shards are kept"
    ):
        pack(data_config, small_disk)
    assert list(small_disk.glob("packed/.*.partial/shards/*.json"))
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / "filler").unlink()
    packed = pack(data_config, small_disk)
    assert np.array_equal(
        packed.read(np.arange(192)), pack(data_config, tmp_path / "other").read(np.arange(192))
    )


def slow_build(root, log):
    def fill(folder):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return {"count": 1}

    build_once(root, "things", {"x": 1}, fill)


@pytest.mark.slow
def test_only_one_of_two_processes_builds(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=slow_build, args=(tmp_path, tmp_path / "log")) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def hold(path, held):
    with FileLock(path):
        held.set()
        time.sleep(0.6)


@pytest.mark.slow
def test_a_process_that_waits_for_another_says_so(tmp_path):
    path, seen, held = store_path(tmp_path, "things", {"x": 1}), [], threading.Event()
    path.parent.mkdir(parents=True)
    other = threading.Thread(target=hold, args=(path.with_suffix(".lock"), held))
    other.start()
    held.wait()
    build(tmp_path, Numbers(), progress=lambda *state: seen.append(state))
    other.join()
    assert seen == [("waiting for another process that builds things", 0, 1)]
