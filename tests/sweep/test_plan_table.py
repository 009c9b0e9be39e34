import shutil

import pytest

from beamclip.config import UserError
from beamclip.sweep.plan_table import human_bytes, print_plan


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (18_400, "18 kB"),
        (6.2e6, "6.2 MB"),
        (193e9, "193 GB"),
        (5.6e12, "5.6 TB"),
    ],
)
def test_bytes_are_printed_readably(count, text):
    assert human_bytes(count) == text


def planned(**facts):
    return {
        "store": "embeddings",
        "description": "clip, 4 views",
        "exists": False,
        "images": 1000,
        "bytes": 2_000_000,
        "seconds": 125.0,
    } | facts


def test_the_plan_shows_which_stores_exist_and_what_the_others_take(tmp_path, capsys):
    print_plan(
        [
            planned(),
            planned(description="clip, 1 view", exists=True, images=0, seconds=0.0),
            planned(store="anchors", seconds=None, images=0),
        ],
        tmp_path,
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if "│" in line]
    assert (
        "clip, 4 views" in lines[0]
        and "to build" in lines[0]
        and "1,000" in lines[0]
        and "2.0 MB" in lines[0]
        and "2m05s" in lines[0]
    )
    assert "exists" in lines[1] and "2m05s" not in lines[1]
    assert "anchors" in lines[2] and "not known yet" in lines[2]


def test_the_note_of_several_stores_is_printed_once_below_the_table(tmp_path, capsys):
    note = "teacher clip: 224 px, mean 0.5"
    print_plan([planned(note=note), planned(note=note), planned()], tmp_path)
    assert capsys.readouterr().err.splitlines()[-1] == note


def test_the_plan_shows_at_least_one_second(tmp_path, capsys):
    print_plan([planned(seconds=0.01)], tmp_path)
    assert " 1s " in capsys.readouterr().err


def test_stores_that_do_not_fit_on_the_disk_are_an_error(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    print_plan([planned(bytes=2 * free, exists=True)], tmp_path)
    with pytest.raises(
        UserError,
        match=r"free, and the missing stores take .*; make room, "
        "choose another folder with --storage, or store less",
    ):
        print_plan([planned(bytes=2 * free)], tmp_path)
