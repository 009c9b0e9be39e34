"""The one exception a user may cause."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user can mend. The message is one sentence: which key or file, what is wrong, what to do.

    The command line prints it without a traceback and exits with 2; any other exception is a defect of ours.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A half sentence that names the nearest known names: `; did you mean "csm"?`, or all of them where few are known."""
    names = sorted(known)
    close = get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if names and len(names) <= 12:
        return f"; known are {', '.join(names)}"
    return ""
