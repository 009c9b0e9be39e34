"""Define the report's content and render it as HTML and as Markdown.

Names, paths and settings come from users, so all text is escaped in both formats.
"""

import base64
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from beamclip.reporting.tables import ReportTable


@dataclass(frozen=True)
class PageFigure:
    """A PNG file and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class PageImage:
    """A small JPEG of one image of the data.

    Attributes:
        name: file name in the folder `images/` of the Markdown report.
        jpeg: content of the file.
        caption: text below the image.
    """

    name: str
    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """One heading and its content. The page shows the parts in the order of this list.

    Attributes:
        title: the heading.
        missing: sentences on what could not be shown, and why.
        tables: tables.
        text: paragraphs.
        figures: plots.
        images: images of the data.
        code: blocks of code or settings.
        collapsed: True to hide the code until the reader opens it (HTML only).
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    figures: tuple[PageFigure, ...] = ()
    images: tuple[PageImage, ...] = ()
    code: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    collapsed: bool = False


@dataclass(frozen=True)
class Page:
    """The whole report.

    Attributes:
        title: name and id of the sweep.
        question: the question that the sweep should answer; may be empty.
        facts: label and text of each line at the top.
        sections: the sections, in their order on the page.
    """

    title: str
    question: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def render_html(page: Page) -> str:
    """Return the page as one HTML file that contains its styles and, as data URIs, its pictures."""
    return _environment().get_template("report.html.j2").render(page=page)


def render_markdown(page: Page) -> str:
    """Return the same text and numbers as Markdown, with links into `figures/` and `images/`."""
    text = _environment(markdown=True).get_template("report.md.j2").render(page=page)
    # The template leaves several blank lines where a section has no tables, figures and so on.
    return re.sub(r"\n{3,}", "\n\n", text)


@cache
def _environment(markdown: bool = False) -> Environment:
    """Return the Jinja environment of one format. It is cached, so a template is compiled once."""
    environment = Environment(
        loader=PackageLoader("beamclip.reporting"),
        # Escapes HTML. Markup, which `escape_markdown` returns, is not escaped a second time.
        autoescape=True,
        # A misspelled field raises an error. By default Jinja would print nothing.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Jinja passes the value of each {{ expression }} through `finalize`.
        finalize=escape_markdown if markdown else None,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "one_line": _one_line,
        "fence": _fence,
        "url": lambda name: Markup(quote(name)),
    }
    return environment


# $ starts a formula in some viewers, and | ends a table cell.
_MARKDOWN_CHARACTERS = re.compile(r"([\\`*_\[\]|#~$])")


def escape_markdown(value: Any) -> Any:
    """Escape text so that Markdown shows it unchanged, in table cells too.

    Args:
        value: any value; `Markup` is returned unchanged.
    """
    if isinstance(value, Markup):
        return value
    # A line break would end a table's row.
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_MARKDOWN_CHARACTERS.sub(r"\\\1", text))


def _fence(text: str) -> Markup:
    """Return a code block whose fence is longer than any run of backticks in the text."""
    longest_run = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest_run + 1)
    return Markup(f"{fence}\n{text}\n{fence}")


def _one_line(title: str) -> str:
    """Return a column's title on one line, without a blank after a hyphen."""
    return title.replace("-\n", "-").replace("\n", " ")


def data_uri(picture: Path | bytes) -> str:
    """Return a data URI of a PNG file, or of a JPEG given as bytes."""
    if isinstance(picture, bytes):
        kind = "jpeg"
        content = picture
    else:
        kind = "png"
        content = picture.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
