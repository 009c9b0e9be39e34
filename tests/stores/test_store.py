import json
import pickle

import numpy as np
import pytest

from beamclip.config import UserError
from beamclip.stores import FORMAT, StoreDamaged, build_once, file_hash, open_store


def fill(folder):
    np.save(folder / "numbers.npy", np.arange(10))
    (folder / "names.txt").write_text("a\nb\n")
    return {"count": 10}


@pytest.fixture
def store(tmp_path):
    return build_once(tmp_path, "things", {"x": 1}, fill)


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_store_describes_itself(store):
    assert (
        store.manifest["count"] == 10
        and store.manifest["parts"] == {"x": 1}
        and store.manifest["key"] == store.key
    )
    assert store.manifest["files"]["numbers.npy"]["sha256"] == file_hash(store.file("numbers.npy"))
    assert store.bytes == store.file("numbers.npy").stat().st_size + 4


def test_one_flipped_byte_is_found_and_named(store):
    flip(store.file("numbers.npy"))
    with pytest.raises(
        StoreDamaged,
        match=(
            r"numbers.npy has changed since it was written \(its checksum\); "
            r"run again with --repair"
        ),
    ) as caught:
        open_store(store.path)
    assert caught.value.files == ("numbers.npy",)


def test_a_truncated_or_missing_file_is_found_and_named(store):
    content = store.file("numbers.npy").read_bytes()
    store.file("numbers.npy").write_bytes(content[:-3])
    with pytest.raises(
        StoreDamaged,
        match=(
            f"numbers.npy has {len(content) - 3} bytes instead of {len(content)}; "
            "run again with --repair"
        ),
    ):
        open_store(store.path)
    store.file("numbers.npy").unlink()
    with pytest.raises(StoreDamaged, match="numbers.npy is missing; run again"):
        open_store(store.path)


def test_all_damaged_files_are_counted(store):
    for name in ("numbers.npy", "names.txt"):
        flip(store.file(name))
    with pytest.raises(
        StoreDamaged, match=r"has changed .*, and 1 more of its files is damaged; run again"
    ) as caught:
        open_store(store.path)
    assert set(caught.value.files) == {"numbers.npy", "names.txt"}


def test_all_files_of_a_store_are_read_only_once(store, monkeypatch):
    """Otherwise every trial would read hundreds of gigabytes."""
    monkeypatch.setattr(
        "beamclip.stores.shards.file_hash", lambda path: pytest.fail(f"{path} was read")
    )
    open_store(store.path)


def test_a_file_with_a_new_time_is_read_once_and_then_trusted(store, monkeypatch):
    read = []
    monkeypatch.setattr(
        "beamclip.stores.shards.file_hash", lambda path: read.append(path.name) or file_hash(path)
    )
    store.file("numbers.npy").touch()
    open_store(store.path)
    open_store(store.path)
    assert read == ["numbers.npy"]


def test_a_store_without_stamps_is_verified_by_reading_it(store):
    store.file("stamps.json").unlink()
    assert open_store(store.path).key == store.key
    flip(store.file("names.txt"))
    store.file("stamps.json").unlink()
    with pytest.raises(StoreDamaged, match="names.txt"):
        open_store(store.path)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_manifest_is_not_a_store(store, content):
    store.file("manifest.json").unlink()
    if content:
        store.file("manifest.json").write_text(content)
    with pytest.raises(
        StoreDamaged, match="has no readable manifest.json, so it is not a finished store"
    ):
        open_store(store.path)


def restate(store, **facts):
    manifest = json.loads(store.file("manifest.json").read_text())
    store.file("manifest.json").write_text(json.dumps(manifest | facts))


def test_an_older_format_is_a_user_error(store):
    restate(store, format=1)
    with pytest.raises(
        StoreDamaged,
        match=f"has store format 1, but {FORMAT} is read here; run again with --repair",
    ):
        open_store(store.path)


def test_a_newer_format_asks_for_a_newer_beamclip_and_is_never_replaced_by_repair(store, tmp_path):
    restate(store, format=FORMAT + 1)
    for repair in (False, True):
        with pytest.raises(UserError, match="was written by a newer beamclip") as caught:
            build_once(tmp_path, "things", {"x": 1}, fill, repair=repair)
        assert not isinstance(caught.value, StoreDamaged)
    assert store.file("numbers.npy").exists()


def test_an_error_about_damage_keeps_its_message_when_pickled():
    sent = pickle.loads(pickle.dumps(StoreDamaged("x is gone", ("x",))))
    assert (
        type(sent) is UserError
        and str(sent) == "x is gone; run again with --repair to rebuild what is damaged"
    )
