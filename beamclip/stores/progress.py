"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


def silent(label: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""
