"""A page as HTML and as Markdown. Names and paths come from users: both templates escape whatever they are given."""

import base64
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from beamclip.reporting.tables import Sheet

# What a page is made of, whatever it is written in.


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


_MARKS = re.compile(r"([\\`*_\[\]|#~$])")


def html_of(page: Page) -> str:
    """One file that needs no other: styles inside, pictures as data."""
    return _environment().get_template("report.html.j2").render(page=page)


def markdown_of(page: Page) -> str:
    """The same text and numbers; pictures are links to `figures/` and `images/` beside it."""
    text = _environment(markdown=True).get_template("report.md.j2").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text)


@cache
def _environment(markdown: bool = False) -> Environment:
    environment = Environment(
        loader=PackageLoader("beamclip.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=escaped_markdown if markdown else None,
    )
    environment.filters |= {
        "data": data_uri,
        "head": _head,
        "fence": _fence,
        "file": lambda name: Markup(quote(name)),
    }
    return environment


def escaped_markdown(value: Any) -> Any:
    """Text that Markdown shows as it is, in a table's cell too: neither marks nor tags."""
    if isinstance(value, Markup):
        return value
    text = (
        " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return Markup(_MARKS.sub(r"\\\1", text))


def _fence(text: str) -> Markup:
    """A block of code, in a fence that its own text can't close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return Markup(f"{fence}\n{text}\n{fence}")


def _head(title: str) -> str:
    """A column's title in one line."""
    return title.replace("-\n", "-").replace("\n", " ")


def data_uri(picture: Path | bytes) -> str:
    """A PNG file, or the bytes of a JPEG, as an address that holds all of it."""
    kind, content = (
        ("jpeg", picture) if isinstance(picture, bytes) else ("png", picture.read_bytes())
    )
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
