"""What a page is made of, whatever it is written in."""

from dataclasses import dataclass
from pathlib import Path

from beamclip.tracking import Sheet


@dataclass(frozen=True)
class Figure:
    """A PNG file, and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Shown:
    """A small JPEG of one image of the data, and what is said of it."""

    name: str
    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """One heading and what stands below it, in this order.

    Attributes:
        missing: sentences on what could not be shown, and why.
        code: blocks that are to be read, or typed, letter by letter.
        folded: show the code only when asked to.
    """

    title: str
    text: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    figures: tuple[Figure, ...] = ()
    images: tuple[Shown, ...] = ()
    code: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The whole report. `facts`: what it is about, as label and text."""

    title: str
    question: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
