import numpy as np

from beamclip.balance import report as report_module
from beamclip.balance.neighbors import normalize_rows
from beamclip.balance.report import BalancedImages, contact_sheet, summarize_balance


def test_a_report_equals_one_worked_out_by_hand(on_a_circle):
    vectors = on_a_circle(0, 10, 20, 90, 180)
    images = BalancedImages(
        vectors,
        ids=np.array([7, 8, 9, 20, 30]),
        sets=np.array([0, 0, 0, 1, 2]),
        kept=np.array([1, 3, 4]),
    )
    report = summarize_balance(images, np.array([0, 0, 1, 1, 1]), ["a", "b", "c"])
    largest = report.pop("largest")
    classes = report.pop("classes")
    assert report == {
        "images": 5,
        "kept": 3,
        "removed": 2,
        "removed_share": 0.4,
        "sets": 3,
        "sets_of_several": 1,
        "sizes": [3, 1, 1],
    }
    assert largest["farthest"] == [7, 9]
    assert round(largest["distance"], 4) == round(1 - np.cos(np.deg2rad(20)), 4)
    assert [(entry["name"], entry["images"], entry["removed"]) for entry in classes] == [
        ("a", 2, 1),
        ("b", 3, 1),
    ]


# --- The contact sheet ---

FRAME = (220, 30, 40)


def draw_sheet(sizes):
    """A sheet of sets of these sizes, the ids of each row as read, the ids kept, and the sets."""
    sets = np.repeat(np.arange(len(sizes)), sizes)
    vectors = normalize_rows(np.random.default_rng(0).normal(size=(len(sets), 8)))
    kept = np.array([np.flatnonzero(sets == number)[-1] for number in range(len(sizes))])
    rows = []

    def read(ids):
        rows.append(ids.tolist())
        return np.full((len(ids), 8, 8, 3), 99, np.uint8)

    return (
        contact_sheet(BalancedImages(vectors, 1000 + np.arange(len(sets)), sets, kept), read),
        rows,
        1000 + kept,
        sets,
    )


def test_the_kept_image_comes_first_in_a_frame_and_the_others_after_it():
    sheet, rows, kept, _ = draw_sheet([1, 3, 2])
    assert [row[0] for row in rows] == [kept[1], kept[2]] and [len(row) for row in rows] == [
        3,
        2,
    ]  # the largest set first, no sets of one image
    left, top = report_module._LABEL, report_module._GAP
    assert sheet.getpixel((left - 2, top + 5)) == FRAME and sheet.getpixel(
        (left + 10, top + 10)
    ) == (99, 99, 99)
    assert sheet.getpixel((left + report_module._CELL + report_module._GAP, top + 5)) == (
        99,
        99,
        99,
    )


def test_a_large_set_shows_twelve_images_the_kept_one_first():
    _, rows, kept, _ = draw_sheet([40])
    assert len(rows[0]) == 12 and len(set(rows[0])) == 12 and rows[0][0] == kept[0]


def test_the_largest_sets_and_random_others_are_shown():
    _, rows, _, sets = draw_sheet([2] * 30 + [5] * 12)
    numbers = [int(sets[row[0] - 1000]) for row in rows]
    assert numbers[:12] == list(range(30, 42)) and len(numbers) == 24 and len(set(numbers)) == 24
    assert numbers[12:] != list(range(12))


def test_the_sheet_says_if_nothing_was_merged():
    sheet, rows, _, _ = draw_sheet([1, 1])
    assert rows == [] and sheet.height < 100 and len(sheet.getcolors()) > 1
