import json
import re

import numpy as np
import pytest
from safetensors.numpy import save

from beamclip.reporting.mistakes import confusion_section, disagreement_section
from beamclip.reporting.sources import TrialStores, teacher_predictions

pytestmark = pytest.mark.slow


class Files:
    """Stands for `Artifacts`: one content for every run."""

    def __init__(self, content):
        self.content = content

    def read(self, run_id, path):
        return self.content


@pytest.fixture
def opened(stores):
    return TrialStores(
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
def test_an_empty_evaluation_is_reported_as_missing(swept, content):
    assert confusion_section(swept, Files(content), ()).missing


def test_pairs_are_summed_over_seeds_with_names_from_any_source(swept):
    triples = [[0, 1, 3], [2, 1, 5], [9, 0, 1]]
    files = Files(
        json.dumps({"linear_probe": {"confusion": triples}, "names": ["a", "b", "c"]}).encode()
    )
    (table,) = confusion_section(swept, files, ()).tables
    assert [row.cells for row in table.rows] == [
        ("c", "b", "10"),
        ("a", "b", "6"),
        ("class 9", "a", "2"),
    ]
    (table,) = confusion_section(swept, files, ("x", "y", "z")).tables
    assert table.rows[0].cells == ("z", "y", "10")


def test_a_probe_without_mistakes_has_no_table(swept):
    section = confusion_section(swept, Files(b'{"linear_probe": {"confusion": []}}'), ())
    assert (
        not section.tables and not section.missing and "made no mistake on test" in section.text[0]
    )


def predictions(stores, **other):
    ids = stores["packed"].test_ids
    labels = stores["packed"].labels[ids].astype(np.int64)
    arrays = {
        "ids": ids,
        "labels": labels,
        "probe": labels,
        "probe_confidence": np.full(len(ids), 0.5, np.float32),
    } | other
    return Files(save({key: value for key, value in arrays.items() if value is not None}))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"probe": None}, "lacks an array"),
        ({"probe": np.zeros(2, np.int64)}, "different lengths"),
        ({"labels": np.full(18, 7)}, "about other images"),
        ({"ids": np.full(18, 10**6)}, "about other images"),
    ],
)
def test_predictions_that_do_not_fit_are_reported(swept, stores, opened, other, says):
    section = disagreement_section(swept.best, predictions(stores, **other), opened, "")
    assert says in section.missing[0]
    assert not section.images


def test_a_missing_or_damaged_predictions_file_is_reported(swept, opened):
    assert (
        "can't be read" in disagreement_section(swept.best, Files(b"junk"), opened, "").missing[0]
    )
    assert (
        "kept no predictions"
        in disagreement_section(swept.best, Files(None), opened, "").missing[0]
    )


def test_cases_sum_to_the_images_on_which_student_and_teacher_differ(swept, stores, opened):
    ids = stores["packed"].test_ids
    teacher = teacher_predictions(opened, ids)
    files = predictions(stores, probe=(teacher + 1) % 3)
    section = disagreement_section(swept.best, files, opened, "")
    assert sum(int(row.cells[1]) for row in section.tables[0].rows) == len(ids)
    assert "its linear probe on 0.0 %" in section.text[0]
    same = disagreement_section(swept.best, predictions(stores, probe=teacher), opened, "")
    assert [row.cells[1] for row in same.tables[0].rows] == ["0", "0", "0"] and not same.images


def test_the_most_confident_mistakes_are_shown_first(swept, stores, opened):
    ids = stores["packed"].test_ids
    sure = np.linspace(0.1, 0.9, len(ids), dtype=np.float32)
    labels = stores["packed"].labels[ids].astype(np.int64)
    section = disagreement_section(
        swept.best, predictions(stores, probe=(labels + 1) % 3, probe_confidence=sure), opened, ""
    )
    shown = [
        float(re.search(r"\((\d\.\d\d)\)", image.caption)[1])
        for image in section.images
        if image.caption.startswith("both")
    ]
    assert shown == sorted(shown, reverse=True)
