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


def test_lists_folders_and_files_without_hidden_ones(files):
    assert files.folders() == ["a", "b"] and files.folders("a") == ["deep"]
    assert [(e.path, e.size) for e in files.files("a")] == [("a/x.bin", 10)]
    assert [e.path for e in files.below("a")] == ["a/deep/y.bin", "a/x.bin"]
    assert [e.path for e in files.files()] == ["top.bin"]
    assert files.files("nowhere") == [] and files.folders("nowhere") == []


def test_knows_folders(files):
    assert files.is_folder() and files.is_folder("a/deep")
    assert not files.is_folder("top.bin") and not files.is_folder("c")


def test_reads_whole_files_and_parts(files):
    assert files.read("a/x.bin") == b"0123456789" and files.read("a/x.bin", 3, 4) == b"3456"
    assert LazyBytes(files, "a/x.bin", 8).read() == b"89"
    with files.open("a/x.bin") as file:
        assert file.read(2) == b"01"


def test_a_stamp_changes_with_the_file(files):
    (before,) = files.files("a")
    system, root = files._place
    system.pipe_file(f"{root}/a/x.bin", b"another content")
    (after,) = files.files("a")
    assert before != after and after.size == 15


@pytest.fixture
def served(tmp_path):
    """A folder behind http, whose listings tell neither size nor time, and the address of it."""
    pytest.importorskip("aiohttp")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_files_over_http_are_asked_for_their_stamps(served):
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


def test_files_with_stamps_are_not_asked(files, monkeypatch):
    listed = files.files("a")
    monkeypatch.setattr(type(files._place[0]), "info", lambda *_: pytest.fail("it was asked"))
    assert files.stamped(listed) == listed


def test_pipes_and_sockets_are_no_files(tmp_path):
    """To open one waits for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "file.jpg").touch()
    assert [entry.path for entry in Files(str(tmp_path)).files()] == ["file.jpg"]


def test_pickles_as_its_address(files):
    files.folders()
    sent = pickle.dumps(LazyBytes(files, "a/x.bin"))
    assert len(sent) < 500 and pickle.loads(sent).read() == b"0123456789"


def test_only_what_is_here_is_local(tmp_path):
    assert Files(str(tmp_path)).local == tmp_path and Files(f"file://{tmp_path}").local == tmp_path
    assert Files("memory://somewhere").local is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nosuch://bucket/x", "^data.path nosuch://bucket/x is of no kind that can be read: "),
        (
            "http://127.0.0.1:9/x",
            "^data.path http://127.0.0.1:9/x (can't be listed|needs a package)",
        ),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(url, match):
    with pytest.raises(UserError, match=match) as caught:
        Files(url).files()
    assert "\n" not in str(caught.value)
