import pytest

from beamclip.config import UserError
from beamclip.data.files import Files, LazyBytes


def test_a_read_that_fails_for_a_moment_is_tried_again(tmp_path, network):
    (tmp_path / "x.bin").write_bytes(b"0123456789")
    network.errors = [TimeoutError("Read timed out")] * 3
    assert (
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin", 2, 3).read() == b"234"
        and not network.errors
    )


def test_a_read_that_goes_on_failing_is_a_sentence(tmp_path, network):
    (tmp_path / "x.bin").write_bytes(b"short")
    network.errors = [TimeoutError("Read timed out")] * 4
    with pytest.raises(
        UserError,
        match=r"x.bin can't be read \(tried 4 times: Read timed out\); check its disk or network",
    ):
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin").read()
    with pytest.raises(UserError, match=r"\(tried 4 times: it gave 2 bytes instead of 9\)"):
        LazyBytes(Files(f"flaky://{tmp_path}"), "x.bin", 3, 9).read()


def test_what_is_cut_short_or_gone_here_is_a_sentence_at_once(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"short")
    with pytest.raises(
        UserError,
        match=r"x.bin can't be read \(it gave 2 bytes instead of 9\); check that it exists, is complete",
    ):
        LazyBytes(Files(str(tmp_path)), "x.bin", 3, 9).read()
    with pytest.raises(
        UserError, match=r"y.bin can't be read \(.*No such file.*\); check that it exists"
    ):
        LazyBytes(Files(str(tmp_path)), "y.bin").read()


def test_a_link_that_leads_nowhere_is_known(tmp_path):
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
