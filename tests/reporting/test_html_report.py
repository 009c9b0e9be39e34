"""The report in its folder and in MLflow: its HTML and its text."""

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from beamclip.cli.main import main
from beamclip.config import Sweep, UserError, choice
from beamclip.reporting.html_report import write_report
from beamclip.reporting.tables import measured_table
from beamclip.tracking import SweepTracker

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "link", "br", "hr", "input"}
SECTIONS = [
    *(
        "Results",
        "Curves",
        "Share of the variance explained",
        "Accuracy against cost",
        "Confusion pairs",
        "Where teacher and student disagree",
    ),
    *(
        "Costs",
        "Data problems",
        "How choices were made",
        "How to reproduce",
        "All settings",
        "Runs",
    ),
]


class Read(HTMLParser):
    """Tags that match, what they point to, and the text of each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.sources = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [
            value
            for name, value in attributes
            if name in ("src", "srcset", "href", "data", "poster", "action", "style")
        ]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="session")
def page(swept, page_base, tmp_path_factory):
    path = write_report(page_base, "page", out=tmp_path_factory.mktemp("report") / "out")
    return (
        Read(path.read_text(encoding="utf-8")),
        path.with_suffix(".md").read_text(encoding="utf-8"),
        path,
    )


def test_the_page_is_one_file_with_every_section(page):
    html, _, _ = page
    assert html.texts["h2"] == SECTIONS
    assert html.texts["p"][0] == "Which <b>words</b>?"
    assert not {"script", "link", "iframe", "object", "embed"} & set(html.tags)
    assert html.sources and all(source.startswith("data:image/") for source in html.sources)
    style = "".join(html.texts["style"])
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    for source in html.sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).verify()


def test_text_from_users_is_escaped(page):
    html, markdown, path = page
    raw = path.read_text(encoding="utf-8")
    assert "<script" not in raw and "<i>" not in raw and "<b>" not in raw
    cells = html.texts["td"]
    assert "<script>alert(1)<∕script>" in cells and "moss | rose" in cells
    assert "<script" not in markdown and "moss \\| rose" in markdown
    assert "python sweeps/page.py --set a='<i>'" in "".join(html.texts["pre"])


def test_images_teacher_and_anchors_are_identified_by_their_keys(page, stores):
    html, markdown, _ = page
    for name, key in (
        ("packed images", stores["packed"].key),
        ("teacher", stores["fingerprint"]),
        ("anchors", "cafe"),
    ):
        assert f"{name}, by key" in html.texts["td"] and key in html.texts["td"]
        assert f"| {name}, by key | {key} |" in markdown


def test_the_markdown_report_has_the_same_numbers(page, swept):
    html, markdown, _ = page
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    heads = {
        index
        for index, line in enumerate(lines)
        if "---" in lines[min(index + 1, len(lines) - 1)] or "---" in line
    }
    cells = [
        re.split(r"(?<!\\)\|", line)[1:-1] for index, line in enumerate(lines) if index not in heads
    ]
    rows = [[unescape(re.sub(r"\\(.)", r"\1", cell.strip())) for cell in row] for row in cells]
    assert [cell for row in rows for cell in row if cell] == html.texts["td"]
    assert [
        line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")
    ] == SECTIONS
    best = next(row for row in rows if row[0] == "* best")
    assert best[1:5] == ["0.1", "openai_7", "60.0 ±25.4", "58.7 ±25.4"]
    assert len(
        [
            row
            for row in rows
            if row[0] in ("\\* best", "", "≈ best", "worse", "untrained", "teacher")
        ]
    ) == len(measured_table(swept).rows)


def test_the_markdown_report_links_to_pictures_next_to_it(page):
    _, markdown, path = page
    links = re.findall(r"\]\(([^)]+)\)", markdown)
    assert {Path(link).parts[0] for link in links} == {"figures", "images"}
    assert {
        "figures/accuracy.png",
        "figures/prompt_set.png",
        "figures/effects.png",
        "figures/accuracy_cost.png",
    } <= set(links)
    for link in links:
        Image.open(path.parent / link).verify()


def test_mistakes_costs_and_problems_are_reported(page, stores):
    html, _, _ = page
    text = " ".join(
        html.texts["p"] + html.texts["td"] + html.texts["figcaption"] + html.texts["dd"]
    )
    assert "over 2 trained student(s)" in text
    pairs = [
        html.texts["td"][i : i + 3] for i, cell in enumerate(html.texts["td"]) if cell == "sand"
    ]
    assert ["sand", "<script>alert(1)<∕script>", "12"] in pairs  # six test images, two seeds
    assert "its own zero-shot on" in text and re.search(
        r"student: <script>alert\(1\)<∕script> \(0\.\d\d\)", text
    )
    assert "1 of 43 images could not be read" in text
    assert "teachers encoded 42 images" in text
    assert "All 8 trials together took 1m48s of device time" in text
    assert "seeds 0, 1" in text and "Welch" in text
    assert "git checkout " + "a" * 40 in "".join(html.texts["pre"])
    assert "Files differed from the commit" in text


def test_only_the_report_of_a_folder_is_uploaded(swept, page_base, page_uri, tmp_path):
    client = MlflowClient(page_uri)
    (tmp_path / "mine.txt").write_text("not yours")
    write_report(page_base, "page", out=tmp_path)
    kept = {file.path for file in client.list_artifacts(swept.run_id, "report")}
    assert kept == {"report/report.html", "report/report.md", "report/figures", "report/images"}


def test_the_default_folder_is_next_to_the_trials(swept, page_base, capsys):
    path = write_report(page_base, "page")
    assert str(path) == f"{page_base.storage.path}/sweeps/page/{swept.sweep_id}/report/report.html"
    assert capsys.readouterr().out.splitlines() == [str(path), str(path.with_suffix(".md"))]
    assert (
        path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777
    )  # not the path of a temporary folder


def test_a_sweep_of_an_older_version_says_what_is_missing(page_base, page_uri, tmp_path):
    sweep = Sweep(name="old", space={"optimizer.lr": choice(0.1)})
    with SweepTracker.open(page_uri, None, sweep, page_base, "s1") as tracker:
        tracker.start_trial("t0", {"optimizer.lr": 0.1})
        tracker.log_trial_metrics("t0", {"linear_probe/val_top1": 40.0}, 1)
        tracker.end_trial("t0", "FINISHED")
    html = Read(write_report(page_base, "old", out=tmp_path / "out").read_text(encoding="utf-8"))
    assert html.texts["h2"] == SECTIONS
    text = " ".join(html.texts["p"])
    for missing in (
        "did not log cost/device_seconds",
        "kept no evaluation.json",
        "sweep.json) can't be read",
        "The command line was not recorded",
        "Fewer than two settings vary",
    ):
        assert missing in text


def test_a_sweep_without_trials_has_a_page(page_base, page_uri, tmp_path):
    SweepTracker.open(page_uri, None, Sweep(name="none"), page_base, "s1").close("FAILED")
    html = Read(write_report(page_base, "none", out=tmp_path / "out").read_text(encoding="utf-8"))
    assert "No trial has finished with a result yet." in html.texts["p"]


def test_missing_stores_are_reported(swept, page_base, tmp_path, monkeypatch):
    def gone(path):
        raise UserError(f"{path} holds no readable manifest.json")

    monkeypatch.setattr("beamclip.reporting.sources.open_packed", gone)
    html = Read(write_report(page_base, "page", out=tmp_path / "out").read_text(encoding="utf-8"))
    assert sum("The images and stores can't be read" in text for text in html.texts["p"]) == 2
    assert "sand" in html.texts["td"]  # confusion pairs need no store


def test_mistakes_of_the_user_are_user_errors(swept, page_base, capsys):
    for arguments, says in [
        (["pages"], "did you mean page"),
        (["page", "--sweep", "x"], "sweep x is not in MLflow experiment page"),
        (["page", "--out", f"{page_base.storage.path}/mlflow.db/below"], "can't be"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(["report", *arguments, "--storage", page_base.storage.path])
        assert caught.value.code == 2
        assert says in capsys.readouterr().err


def test_every_student_is_named(page_uri, swept, page_base, tmp_path):
    page = write_report(page_base, "page", None, tmp_path).with_suffix(".md").read_text()
    assert all(f"run:{row.run_id}" in page for row in swept.trials)
    assert f"the best student is run:{swept.best.run_id}" in page
