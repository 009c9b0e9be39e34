import pytest

from beamclip.config import UserError
from beamclip.data.blob import Blob
from beamclip.data.files import Files


def failing(times, content=b"0123456789"):
    """A read that fails so often as stores do, and then gives this."""
    left = iter(range(times))

    def read(self, path, start=0, size=None):
        if next(left, None) is not None:
            raise TimeoutError("Read timed out")
        return content[start:][:size]

    return read


def test_a_read_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("beamclip.data.blob._WAITS", (0, 0, 0))
    monkeypatch.setattr(Files, "read", failing(3))
    assert Blob(Files(str(tmp_path)), "x.bin", 2, 3).read() == b"234"


def test_a_read_that_goes_on_failing_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("beamclip.data.blob._WAITS", (0, 0))
    with pytest.raises(UserError, match=r"x.bin can't be read \(tried 3 times: .*No such file.*\); see that its disk or network works"):
        Blob(Files(str(tmp_path)), "x.bin").read()
    (tmp_path / "x.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="it gave 2 bytes instead of 9"):
        Blob(Files(str(tmp_path)), "x.bin", 3, 9).read()
