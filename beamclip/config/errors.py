"""Keeping others from talking while they load something: what went wrong is said in our one sentence."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# The one exception a user may cause.


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


@contextmanager
def mute_loggers(*names: str) -> Iterator[None]:
    """These loggers say nothing short of a catastrophe inside the block, and afterwards what they said before.

    Args:
        names: "" is the root logger.
    """
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """What an error says first; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
