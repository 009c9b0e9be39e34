"""One store that is needed: whether it is there, and what it would take."""

from dataclasses import dataclass
from pathlib import Path

from beamclip.stores import Store, StoreDamaged, open_store
from beamclip.training.workshop import Workshop


@dataclass(frozen=True)
class Need:
    """One store that a search space needs. JSON values only.

    Attributes:
        store: what kind it is.
        what: what it holds, for people.
        there: whether it exists and is whole.
        images: images that have to be worked on; 0 where it is there, the rest where a killed command has begun with it.
        bytes: its size, or that of what is missing of it.
        seconds: how long making it will take at the rate measured just now; None where nobody can know yet.
    """

    store: str
    what: str
    there: bool
    images: int
    bytes: int
    seconds: float | None


def whole(path: Path, workshop: Workshop) -> Store | None:
    """A store that exists. A damaged one counts as missing where it will be repaired."""
    try:
        return open_store(path) if path.exists() else None
    except StoreDamaged:
        if not workshop.repair:
            raise
        return None
