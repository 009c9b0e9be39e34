import os
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from beamclip.config import UserError
from beamclip.data.files import Files, LazyBytes


@pytest.fixture(params=["plain", "file", "memory"])
def files(request, tmp_path):
    """The same small tree on three file systems."""
    url = {
        "plain": str(tmp_path),
        "file": f"file://{tmp_path}",
        "memory": f"memory://{tmp_path.name}",
    }[request.param]
    system, root = fsspec.core.url_to_fs(url)
    for path, content in {
        "a/x.bin": b"0123456789",
        "a/deep/y.bin": b"abc",
        "a/.hidden": b"",
        "b/z.bin": b"",
        "top.bin": b"t",
    }.items():
        system.makedirs(f"{root}/{path}".rsplit("/", 1)[0], exist_ok=True)
        system.pipe_file(f"{root}/{path}", content)
    return Files(url)


def test_folders_and_files_are_listed_without_hidden_ones(files):
    assert files.folders() == ["a", "b"] and files.folders("a") == ["deep"]
    assert [(e.path, e.size) for e in files.files("a")] == [("a/x.bin", 10)]
    assert [e.path for e in files.below("a")] == ["a/deep/y.bin", "a/x.bin"]
    assert [e.path for e in files.files()] == ["top.bin"]
    assert files.files("nowhere") == [] and files.folders("nowhere") == []


def test_folders_are_recognized(files):
    assert files.is_folder() and files.is_folder("a/deep")
    assert not files.is_folder("top.bin") and not files.is_folder("c")


def test_whole_files_and_parts_are_read(files):
    assert files.read("a/x.bin") == b"0123456789" and files.read("a/x.bin", 3, 4) == b"3456"
    assert LazyBytes(files, "a/x.bin", 8).read() == b"89"
    with files.open("a/x.bin") as file:
        assert file.read(2) == b"01"


def test_a_stamp_changes_with_the_file(files):
    (before,) = files.files("a")
    system, root = files._opened
    system.pipe_file(f"{root}/a/x.bin", b"another content")
    (after,) = files.files("a")
    assert before != after and after.size == 15


@pytest.fixture
def served(tmp_path):
    """A folder and its http URL, whose listings have neither sizes nor times."""
    pytest.importorskip("aiohttp")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_stamps_of_files_over_http_are_requested_for_each_file(served):
    folder, url = served
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(b"0123")
    listed = Files(url).files()
    assert [(entry.size, entry.stamp) for entry in listed] == [(0, "")] * 2
    before = Files(url).stamped(listed)
    assert [(entry.path, entry.size, bool(entry.stamp)) for entry in before] == [
        ("a.bin", 4, True),
        ("b.bin", 4, True),
    ]
    os.utime(folder / "b.bin", (1, 1))
    assert [old == new for old, new in zip(before, Files(url).stamped(listed), strict=True)] == [
        True,
        False,
    ]


def test_stamps_that_a_listing_has_are_not_requested(files, monkeypatch):
    listed = files.files("a")
    monkeypatch.setattr(type(files._file_system), "info", lambda *_: pytest.fail("it was asked"))
    assert files.stamped(listed) == listed


def test_pipes_and_sockets_are_not_files(tmp_path):
    """Opening a pipe would block forever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "file.jpg").touch()
    assert [entry.path for entry in Files(str(tmp_path)).files()] == ["file.jpg"]


def test_a_lazy_file_is_pickled_as_its_path(files):
    files.folders()
    sent = pickle.dumps(LazyBytes(files, "a/x.bin"))
    assert len(sent) < 500 and pickle.loads(sent).read() == b"0123456789"


def test_only_paths_on_this_machine_are_local(tmp_path):
    assert Files(str(tmp_path)).local == tmp_path and Files(f"file://{tmp_path}").local == tmp_path
    assert Files("memory://somewhere").local is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nosuch://bucket/x", "^data.path nosuch://bucket/x has an unknown protocol: "),
        (
            "http://127.0.0.1:9/x",
            "^data.path http://127.0.0.1:9/x (can't be listed|needs a package)",
        ),
    ],
)
def test_an_invalid_url_is_a_user_error(url, match):
    with pytest.raises(UserError, match=match) as caught:
        Files(url).files()
    assert "\n" not in str(caught.value)


def test_a_read_that_fails_once_is_retried(tmp_path, network):
    (tmp_path / "x.bin").write_bytes(b"0123456789")
    network.errors = [TimeoutError("Read timed out")] * 3
    assert (
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin", 2, 3).read() == b"234"
        and not network.errors
    )


def test_a_read_that_keeps_failing_is_a_user_error(tmp_path, network):
    (tmp_path / "x.bin").write_bytes(b"short")
    network.errors = [TimeoutError("Read timed out")] * 4
    with pytest.raises(
        UserError,
        match=r"x.bin can't be read \(tried 4 times: Read timed out\); check its disk or network",
    ):
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin").read()
    with pytest.raises(UserError, match=r"\(tried 4 times: it gave 2 bytes instead of 9\)"):
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin", 3, 9).read()


def test_a_truncated_or_missing_local_file_is_a_user_error_without_retries(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"short")
    with pytest.raises(
        UserError,
        match=(
            r"x.bin can't be read \(it gave 2 bytes instead of 9\); "
            r"check that it exists, is complete"
        ),
    ):
        LazyBytes(Files(str(tmp_path)), "x.bin", 3, 9).read()
    with pytest.raises(
        UserError, match=r"y.bin can't be read \(.*No such file.*\); check that it exists"
    ):
        LazyBytes(Files(str(tmp_path)), "y.bin").read()


def test_a_broken_link_is_recognized(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "not there")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "good").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    found = {
        name: LazyBytes(Files(str(tmp_path)), name).leads_nowhere
        for name in ("gone", "self", "good", "file", "never")
    }
    assert found == {"gone": True, "self": True, "good": False, "file": False, "never": False}
    assert not LazyBytes(Files(str(tmp_path)), "gone", 512, 10).leads_nowhere, (
        "a shard that is gone is no bad image"
    )


def test_links_are_followed(tmp_path):
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/x.bin").write_bytes(b"0123456789")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/folder").symlink_to(tmp_path / "real")
    (tmp_path / "set/file.bin").symlink_to(tmp_path / "real/x.bin")
    (tmp_path / "set/nowhere").symlink_to(tmp_path / "gone")
    files = Files(str(tmp_path / "set"))
    assert files.folders() == ["folder"] and files.folders("folder") == ["deep"]
    before = files.below("")
    assert [(e.path, e.size) for e in before] == [
        ("file.bin", 10),
        ("folder/x.bin", 10),
        ("nowhere", 0),
    ]
    os.utime(tmp_path / "real/x.bin", (1, 1))
    assert [new == old for new, old in zip(files.below(""), before, strict=True)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("target", [".", "..", "../../other/back"])
def test_a_link_to_a_parent_folder_is_a_user_error(tmp_path, target):
    for folder in ("set/a", "other/back"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "other/back/again").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/loop").symlink_to(target)
    with pytest.raises(
        UserError, match="is a link to one of its own parent folders; remove the link"
    ):
        Files(str(tmp_path / "set")).below("")
