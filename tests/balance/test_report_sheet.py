import numpy as np

from beamclip.balance import report as module
from beamclip.balance.neighbors import unit
from beamclip.balance.report import contact_sheet

FRAME = (220, 30, 40)


def drawn(sizes):
    """A sheet of sets of these sizes, and the sample ids of each row in the order in which they were read."""
    sets = np.repeat(np.arange(len(sizes)), sizes)
    vectors = unit(np.random.default_rng(0).normal(size=(len(sets), 8)))
    kept = np.array([np.flatnonzero(sets == number)[-1] for number in range(len(sizes))])
    rows = []

    def read(ids):
        rows.append(ids.tolist())
        return np.full((len(ids), 8, 8, 3), 99, np.uint8)

    return (
        contact_sheet(vectors, 1000 + np.arange(len(sets)), sets, kept, read),
        rows,
        1000 + kept,
        sets,
    )


def test_the_kept_image_comes_first_in_a_frame_and_the_others_after_it():
    sheet, rows, kept, _ = drawn([1, 3, 2])
    assert [row[0] for row in rows] == [kept[1], kept[2]] and [len(row) for row in rows] == [
        3,
        2,
    ]  # the largest first, no single ones
    left, top = module._LABEL, module._GAP
    assert sheet.getpixel((left - 2, top + 5)) == FRAME and sheet.getpixel(
        (left + 10, top + 10)
    ) == (99, 99, 99)
    assert sheet.getpixel((left + module._CELL + module._GAP, top + 5)) == (99, 99, 99)


def test_of_a_large_set_the_nearest_and_the_farthest_are_shown():
    _, rows, kept, _ = drawn([40])
    assert len(rows[0]) == 12 and len(set(rows[0])) == 12 and rows[0][0] == kept[0]


def test_the_largest_sets_and_others_at_random():
    _, rows, _, sets = drawn([2] * 30 + [5] * 12)
    numbers = [int(sets[row[0] - 1000]) for row in rows]
    assert numbers[:12] == list(range(30, 42)) and len(numbers) == 24 and len(set(numbers)) == 24
    assert numbers[12:] != list(range(12))


def test_where_nothing_was_merged_the_sheet_says_so():
    sheet, rows, _, _ = drawn([1, 1])
    assert rows == [] and sheet.height < 100 and len(sheet.getcolors()) > 1
