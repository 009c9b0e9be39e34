"""Bytes that are read when they are asked for."""

from dataclasses import dataclass

from beamclip.data.files import Files
from beamclip.data.links import leads_nowhere


@dataclass(frozen=True)
class Blob:
    """A file or a part of one, not read yet.

    Attributes:
        size: in bytes; None for all from `start` on.
    """

    files: Files
    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: as `Files.read`.
        """
        return self.files.read(self.path, self.start, self.size)

    @property
    def leads_nowhere(self) -> bool:
        """Whether it is a whole file on this machine, and a link to one that is not there."""
        local = self.files.local if self.size is None else None
        return local is not None and leads_nowhere(local / self.path)
