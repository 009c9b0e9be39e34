import pickle

import fsspec
import pytest

from beamclip.config import UserError
from beamclip.data.blob import Blob
from beamclip.data.files import Files


@pytest.fixture(params=["plain", "file", "memory"])
def files(request, tmp_path):
    """The same small tree on three file systems."""
    url = {"plain": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[request.param]
    system, root = fsspec.core.url_to_fs(url)
    for path, content in {"a/x.bin": b"0123456789", "a/deep/y.bin": b"abc", "a/.hidden": b"", "b/z.bin": b"", "top.bin": b"t"}.items():
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
    assert Blob(files, "a/x.bin", 8).read() == b"89"
    with files.open("a/x.bin") as file:
        assert file.read(2) == b"01"


def test_a_stamp_changes_with_the_file(files):
    (before,) = files.files("a")
    system, root = files._place
    system.pipe_file(f"{root}/a/x.bin", b"another content")
    (after,) = files.files("a")
    assert before != after and after.size == 15


def test_pickles_as_its_address(files):
    files.folders()
    sent = pickle.dumps(Blob(files, "a/x.bin"))
    assert len(sent) < 500 and pickle.loads(sent).read() == b"0123456789"


def test_only_what_is_here_is_local(tmp_path):
    assert Files(str(tmp_path)).local == tmp_path and Files(f"file://{tmp_path}").local == tmp_path
    assert Files("memory://somewhere").local is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nosuch://bucket/x", "^data.path nosuch://bucket/x is of no kind that can be read: "),
        ("http://127.0.0.1:9/x", "^data.path http://127.0.0.1:9/x (can't be listed|needs a package)"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(url, match):
    with pytest.raises(UserError, match=match) as caught:
        Files(url).files()
    assert "\n" not in str(caught.value)
