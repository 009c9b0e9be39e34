import json
import re

import numpy as np
import pytest
from safetensors.numpy import save

from beamclip.reporting.mistakes import confusion_pairs, disagreement
from beamclip.reporting.sources import Stores, teacher_predictions

pytestmark = pytest.mark.slow


class Files:
    """Stands for `Artifacts`: one content for every run."""

    def __init__(self, content):
        self.content = content

    def read(self, run_id, path):
        return self.content


@pytest.fixture
def opened(stores):
    return Stores(
        stores["packed"], stores["packed"].names, stores["anchors"], stores["fingerprint"]
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{}",
        b"[1]",
        b'{"linear_probe": null}',
        b'{"linear_probe": {"confusion": [[1, 2]]}}',
    ],
)
def test_an_evaluation_that_says_nothing_is_missing_not_a_failure(swept, content):
    assert confusion_pairs(swept, Files(content), ()).missing


def test_pairs_are_added_up_over_seeds_with_names_from_wherever_they_are_known(swept):
    triples = [[0, 1, 3], [2, 1, 5], [9, 0, 1]]
    files = Files(
        json.dumps({"linear_probe": {"confusion": triples}, "names": ["a", "b", "c"]}).encode()
    )
    (sheet,) = confusion_pairs(swept, files, ()).sheets
    assert [line.cells for line in sheet.lines] == [
        ("c", "b", "10"),
        ("a", "b", "6"),
        ("class 9", "a", "2"),
    ]
    (sheet,) = confusion_pairs(swept, files, ("x", "y", "z")).sheets
    assert sheet.lines[0].cells == ("z", "y", "10")


def test_a_probe_without_mistakes_has_no_table(swept):
    section = confusion_pairs(swept, Files(b'{"linear_probe": {"confusion": []}}'), ())
    assert not section.sheets and not section.missing and "no test image" in section.text[0]


def predictions(stores, **other):
    ids = stores["packed"].test_ids
    labels = stores["packed"].labels[ids].astype(np.int64)
    said = {
        "ids": ids,
        "labels": labels,
        "probe": labels,
        "probe_confidence": np.full(len(ids), 0.5, np.float32),
    } | other
    return Files(save({key: value for key, value in said.items() if value is not None}))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"probe": None}, "lacks something"),
        ({"probe": np.zeros(2, np.int64)}, "different lengths"),
        ({"labels": np.full(18, 7)}, "about other images"),
        ({"ids": np.full(18, 10**6)}, "about other images"),
    ],
)
def test_predictions_that_do_not_fit_are_told(swept, stores, opened, other, says):
    section = disagreement(swept.best, predictions(stores, **other), opened, "")
    assert says in section.missing[0]
    assert not section.images


def test_a_file_that_is_no_predictions_is_told(swept, opened):
    assert "can't be read" in disagreement(swept.best, Files(b"junk"), opened, "").missing[0]
    assert "kept no predictions" in disagreement(swept.best, Files(None), opened, "").missing[0]


def test_cases_add_up_to_the_images_on_which_they_differ(swept, stores, opened):
    ids = stores["packed"].test_ids
    teacher = teacher_predictions(opened, ids)
    files = predictions(stores, probe=(teacher + 1) % 3)
    section = disagreement(swept.best, files, opened, "")
    assert sum(int(line.cells[1]) for line in section.sheets[0].lines) == len(ids)
    assert "its linear probe says on 0.0 %" in section.text[0]
    same = disagreement(swept.best, predictions(stores, probe=teacher), opened, "")
    assert [line.cells[1] for line in same.sheets[0].lines] == ["0", "0", "0"] and not same.images


def test_the_surest_are_shown_first(swept, stores, opened):
    ids = stores["packed"].test_ids
    sure = np.linspace(0.1, 0.9, len(ids), dtype=np.float32)
    labels = stores["packed"].labels[ids].astype(np.int64)
    section = disagreement(
        swept.best, predictions(stores, probe=(labels + 1) % 3, probe_confidence=sure), opened, ""
    )
    shown = [
        float(re.search(r"\((\d\.\d\d)\)", image.caption)[1])
        for image in section.images
        if image.caption.startswith("both")
    ]
    assert shown == sorted(shown, reverse=True)
