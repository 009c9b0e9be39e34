import errno
import json
import multiprocessing
import os

import numpy as np
import pytest

from beamclip.config import UserError
from beamclip.stores import (
    full_disk_as_user_error,
    key_of,
    make_folder,
    read_json,
    temporary_path,
    write_json,
)
from beamclip.stores.io import stamp_of


def test_a_key_depends_on_every_part_but_not_on_their_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 16


def test_a_stamp_changes_with_any_write_and_survives_a_rename_of_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"one")
    before = stamp_of(tmp_path / "a/file")
    os.rename(tmp_path / "a", tmp_path / "b")
    assert stamp_of(tmp_path / "b/file") == before
    (tmp_path / "b/file").write_bytes(b"two")
    os.utime(
        tmp_path / "b/file", ns=(before[1], before[1])
    )  # the change time (ctime) still shows that the file was written
    assert stamp_of(tmp_path / "b/file") != before


def write_often(path, number):
    for _ in range(200):
        write_json(path, {"number": number, "padding": "x" * 5000})


@pytest.mark.slow
def test_json_is_written_atomically_despite_other_writers(tmp_path):
    path, context = tmp_path / "x.json", multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or len(json.loads(path.read_text())["padding"]) == 5000
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_two_writers_use_different_temporary_names(tmp_path):
    """Processes in two containers may have the same process id."""
    names = {temporary_path(tmp_path / "x.npy").name for _ in range(100)}
    assert len(names) == 100 and all(
        name.startswith(".x.npy.") and name.endswith(".tmp") for name in names
    )


def test_checking_that_a_folder_is_writable_leaves_no_file(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "\x00\x01"])
def test_a_file_that_is_not_json_is_read_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_user_error_and_other_errors_are_not_changed(tmp_path, number):
    with (
        pytest.raises(
            UserError, match=f"^the disk of {tmp_path} is full; finished shards are kept: "
        ),
        full_disk_as_user_error(tmp_path / "store"),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), full_disk_as_user_error(tmp_path / "store"):
        raise PermissionError(errno.EACCES, "no")


def test_an_array_that_does_not_fit_on_the_disk_is_the_same_user_error(small_disk):
    with (
        pytest.raises(UserError, match=f"^the disk of {small_disk} is full"),
        full_disk_as_user_error(small_disk / "store"),
    ):
        np.save(small_disk / "large.npy", np.zeros(2 * 2**20, np.uint8))


def test_a_folder_that_cannot_be_created_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"can't be written \(.*\); choose another folder with --storage"
    ):
        make_folder(tmp_path / "file" / "below")
