from pathlib import Path

import pytest

from beamclip.reporting.page import (
    Page,
    PageImage,
    Section,
    data_uri,
    escape_markdown,
    render_html,
    render_markdown,
)
from beamclip.reporting.tables import ReportTable, TableRow


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
    assert escape_markdown(text) == safe
    assert f"- label: {safe}" in render_markdown(Page("t", "", (("label", text),), ()))


def test_a_table_is_rendered_as_markdown_and_html(tmp_path):
    sheet = ReportTable(
        "",
        ("name", "probe\ntest", "zero-\nshot"),
        (TableRow("best", ("a", "1.0", "2.0")), TableRow("trial", ("b", "3.0", "4.0"))),
        1,
    )
    lines = render_markdown(page(tables=(sheet,))).splitlines()
    start = lines.index("| name | probe test | zero-shot |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: | ---: |",
        "| a | 1.0 | 2.0 |",
        "| b | 3.0 | 4.0 |",
    ]
    html = render_html(page(tables=(sheet,)))
    assert '<tr class="best"><td class="text">a</td><td>1.0</td><td>2.0</td></tr>' in html


def test_code_can_not_end_its_block():
    text = "echo\n```\n# not a heading </pre><script>"
    markdown = render_markdown(page(code=(text,)))
    assert f"````\n{text}\n````" in markdown
    assert "</pre><script>" not in render_html(page(code=(text,)))
    assert "<details>" in render_html(page(code=("x",), collapsed=True))


def test_pictures_are_embedded_as_data_urls(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert data_uri(tmp_path / "a.png") == "data:image/png;base64,iVBORw=="
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="
    html = render_html(page(images=(PageImage("1.jpg", b"\xff\xd8", 'a "quoted" <name>'),)))
    assert 'alt="a &#34;quoted&#34; &lt;name&gt;"' in html


def test_templates_come_with_the_package():
    folder = Path(render_html.__code__.co_filename).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"report.html.j2", "report.md.j2"}
