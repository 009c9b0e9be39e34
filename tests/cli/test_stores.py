import shutil

import pytest
from helpers import tiny

from beamclip.cli.stores import pack_images
from beamclip.config import UserError
from beamclip.data import pack
from beamclip.stores.paths import stores_root
from beamclip.sweep.plan_table import human_bytes, human_seconds, show_plan


@pytest.mark.parametrize(
    ("count", "said"),
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
def test_bytes_for_people(count, said):
    assert human_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.01, "1 s"), (59, "59 s"), (90, "2 min"), (3540, "59 min"), (7500, "2 h 05 min")],
)
def test_durations_for_people(seconds, said):
    assert human_seconds(seconds) == said


def need(**facts):
    return {
        "store": "embeddings",
        "what": "clip, 4 views",
        "there": False,
        "images": 1000,
        "bytes": 2_000_000,
        "seconds": 125.0,
    } | facts


def test_the_plan_says_what_is_there_and_what_the_rest_takes(tmp_path, capsys):
    show_plan(
        [
            need(),
            need(what="clip, 1 view", there=True, images=0, seconds=0.0),
            need(store="anchors", seconds=None, images=0),
        ],
        tmp_path,
    )
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if "│" in line]
    assert (
        "clip, 4 views" in lines[0]
        and "to make" in lines[0]
        and "1,000" in lines[0]
        and "2.0 MB" in lines[0]
        and "2 min" in lines[0]
    )
    assert "there" in lines[1] and "2 min" not in lines[1]
    assert "anchors" in lines[2] and "soon known" in lines[2]


def test_what_will_not_fit_is_said_before_it_is_begun(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    show_plan([need(bytes=2 * free, there=True)], tmp_path)
    with pytest.raises(
        UserError,
        match=r"free, and the missing stores take .*; make room, choose another folder with --storage, or store less",
    ):
        show_plan([need(bytes=2 * free)], tmp_path)


def test_packing_says_how_large_it_will_be_before_it_begins(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "beamclip.cli.stores._check_room",
        lambda *room: (_ for _ in ()).throw(UserError(f"stop at {room[0]}")),
    )
    with pytest.raises(UserError, match="stop at 614400"):
        pack_images(tiny.experiment(preset, tmp_path), repair=False)
    assert f"200 images, 32 px raw: 614 kB, into {tmp_path}/stores" in capsys.readouterr().out


def test_packing_asks_for_no_room_that_is_taken_already(preset, tmp_path, monkeypatch):
    experiment = tiny.experiment(preset, tmp_path)
    pack(experiment.data, stores_root(experiment))
    monkeypatch.setattr(
        "beamclip.cli.stores._check_room",
        lambda *room: (_ for _ in ()).throw(UserError(f"stop at {room[0]}")),
    )
    with pytest.raises(UserError, match="stop at 0"):
        pack_images(experiment, repair=False)
