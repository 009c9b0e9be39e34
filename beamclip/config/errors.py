"""The exception for mistakes of the user, and helpers to word messages of one sentence."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

_MAX_LISTED = 12
"""A message lists the known names only if there are at most this many."""

_SIMILAR = 0.6
"""Smallest difflib ratio of a name that is suggested. At 0.5, `cms` suggests `compress`."""


class UserError(ValueError):
    """A mistake the user can fix.

    The message is one sentence: which key or file, what is wrong, what to do. The command line
    prints it without a traceback and exits with 2. Any other exception is a bug in beamclip.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the end of a sentence that suggests known names.

    Args:
        name: the name that was given, and is not known.
        known: all names that would be accepted.
        count: suggest at most this many.

    Returns:
        `; did you mean csm?` with the most similar names. If no name is similar: all names, or an
        empty string if there are more than 12.
    """
    names = sorted(known)
    close = close_names(name, names, count)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return listed(names)


def listed(known: Sequence[str]) -> str:
    """Return the end of a sentence that lists known names, or an empty string if over 12."""
    return f"; known are {', '.join(known)}" if 0 < len(known) <= _MAX_LISTED else ""


def close_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names that the user may have meant, the most similar first.

    Args:
        name: the name that was given: misspelled, or shorter or longer at its end.
        known: all names that would be accepted.
        count: return at most this many.
    """
    names = sorted(known)
    similar = get_close_matches(name, names, n=count, cutoff=_SIMILAR)
    # Such as `temp`, which is not similar to the longer `temperature`.
    for other in names:
        shorter, longer = sorted((name, other), key=len)
        if len(shorter) > 2 and longer.startswith(shorter) and other not in similar:
            similar.append(other)
    return similar[:count]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's class name if it has none."""
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0]


@contextmanager
def mute_loggers(*names: str) -> Iterator[None]:
    """Silence loggers below CRITICAL inside the block, then restore their levels.

    Use it around libraries that log what we report ourselves in one sentence.

    Args:
        names: names of the loggers; "" is the root logger.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
