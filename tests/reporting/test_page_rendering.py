from pathlib import Path

import pytest

from beamclip.reporting.page import (
    Page,
    Section,
    Shown,
    data_uri,
    escaped_markdown,
    html_of,
    markdown_of,
)
from beamclip.reporting.tables import Line, Sheet


def page(**section):
    return Page("t", "", (("label", "x_y"),), (Section("s", **section),))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<script>", "&lt;script&gt;"),
        ("a|b", "a\\|b"),
        ("snow_leopard *", "snow\\_leopard \\*"),
        ("[x](http://y)", "\\[x\\](http://y)"),
        ("two\nlines", "two lines"),
        ("a & b", "a &amp; b"),
        ("44.0 ±1.3", "44.0 ±1.3"),
    ],
)
def test_markdown_shows_text_as_it_is(text, safe):
    assert escaped_markdown(text) == safe
    assert f"- label: {safe}" in markdown_of(Page("t", "", (("label", text),), ()))


def test_a_table_is_one_in_both(tmp_path):
    sheet = Sheet(
        "",
        ("name", "probe\ntest", "zero-\nshot"),
        (Line("best", ("a", "1.0", "2.0")), Line("trial", ("b", "3.0", "4.0"))),
        1,
    )
    lines = markdown_of(page(sheets=(sheet,))).splitlines()
    start = lines.index("| name | probe test | zero-shot |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: | ---: |",
        "| a | 1.0 | 2.0 |",
        "| b | 3.0 | 4.0 |",
    ]
    html = html_of(page(sheets=(sheet,)))
    assert '<tr class="best"><td class="text">a</td><td>1.0</td><td>2.0</td></tr>' in html


def test_code_can_not_leave_its_block():
    text = "echo\n```\n# not a heading </pre><script>"
    markdown = markdown_of(page(code=(text,)))
    assert f"````\n{text}\n````" in markdown
    assert "</pre><script>" not in html_of(page(code=(text,)))
    assert "<details>" in html_of(page(code=("x",), folded=True))


def test_pictures_are_data(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert data_uri(tmp_path / "a.png") == "data:image/png;base64,iVBORw=="
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="
    html = html_of(page(images=(Shown("1.jpg", b"\xff\xd8", 'a "quoted" <name>'),)))
    assert 'alt="a &#34;quoted&#34; &lt;name&gt;"' in html


def test_templates_come_with_the_package():
    folder = Path(html_of.__code__.co_filename).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"report.html.j2", "report.md.j2"}
