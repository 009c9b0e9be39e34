import errno

import pytest
from fsspec.exceptions import FSTimeoutError

from beamclip.config import UserError
from beamclip.data.files import Files
from beamclip.data.retry import with_retries


class StoreError(Exception):
    """Errors as of botocore and aiohttp: not an OSError, and often without a message."""


def test_a_file_continues_where_a_read_failed(tmp_path, network):
    (tmp_path / "x.bin").write_bytes(bytes(range(100)))
    with Files(f"flaky://{tmp_path}").open("x.bin") as file:
        assert file.read(10) == bytes(range(10))
        network.errors = [StoreError(), ConnectionResetError()]
        assert file.read(10) == bytes(range(10, 20)) and not network.errors
        assert file.seek(-5, 2) == 95 and file.seek(-5, 1) == file.tell() == 90
        network.errors = [FSTimeoutError()]
        assert file.read() == bytes(range(90, 100)) and file.read() == b""
        with pytest.raises(OSError, match="is before its start"):
            file.seek(-1)


@pytest.mark.parametrize(
    "error", [StoreError(), FSTimeoutError(), ConnectionResetError(), StoreError("two\nlines.")]
)
def test_a_read_that_keeps_failing_is_a_user_error_for_any_exception(tmp_path, network, error):
    (tmp_path / "x.bin").touch()
    network.errors = [error] * 4
    says = "two lines" if error.args else type(error).__name__
    with pytest.raises(
        UserError, match=rf"x.bin can't be read \(tried 4 times: {says}\); "
    ) as caught:
        Files(f"flaky://{tmp_path}").open("x.bin").read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ELOOP, errno.EISDIR])
def test_permanent_errors_of_a_disk_are_not_retried(number):
    asked = []

    def read():
        asked.append(1)
        raise OSError(number, "said by the disk")

    with pytest.raises(
        UserError,
        match=r"^x can't be read \(.*said by the disk\); check that it exists, is complete",
    ):
        with_retries(read, "x")
    assert len(asked) == 1


def test_a_user_error_is_passed_on_unchanged():
    def read():
        raise UserError("said already; mend it")

    with pytest.raises(UserError, match="^said already; mend it$"):
        with_retries(read, "x")
