"""Use UTF-8 for files and their names in every locale."""

import locale
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from beamclip.stores.paths import names_are_utf8


def use_utf8(arguments: Sequence[str] | None) -> None:
    """Restart this command in UTF-8 mode if file names are not UTF-8, and set up its output.

    Under a Latin-1 locale Python reads the bytes of `café` as `cafÃ©`. Ray, SQLite and Arrow always
    read names as UTF-8, so they would write into another folder than Python reads. The mode can
    be chosen only when Python starts, and the variable passes it on to the processes of Ray.

    Args:
        arguments: words that a program gave to the command. None if they are those of the
            process; only then can it be restarted.
    """
    if arguments is None and not names_are_utf8() and _can_start_again():
        # Words are encoded as they were decoded, so they have the bytes that the user typed.
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            os.environ | {"PYTHONUTF8": "1"},
        )
    for stream in (sys.stdout, sys.stderr):
        _replace_unprintable(stream)


def _can_start_again() -> bool:
    """Return whether the program is a file; standard input could not be read a second time."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    # With PYTHONUTF8 it has been restarted already, or -X utf8=0 forbids it.
    return bool(file and os.path.isfile(file)) and os.environ.get("PYTHONUTF8") != "1"


def _replace_unprintable(stream: object) -> None:
    """Print `?` for letters that a stream's encoding lacks; don't raise UnicodeEncodeError."""
    # Programs and tests replace the streams by other objects.
    if not isinstance(stream, TextIOWrapper):
        return
    if stream.isatty() and not os.environ.get("PYTHONIOENCODING"):
        # In UTF-8 mode Python would send UTF-8 to a terminal of another locale. C and POSIX say
        # nothing about the terminal.
        encoding = locale.getencoding()
        is_ascii = encoding.lower() in ("ansi_x3.4-1968", "us-ascii", "ascii")
        stream.reconfigure(encoding="utf-8" if is_ascii else encoding)
    stream.reconfigure(errors="replace")
