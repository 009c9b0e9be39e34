import shlex

import pytest
from helpers import tiny

from beamclip.cli.balance import balance_images, train_command
from beamclip.cli.main import main
from beamclip.config import UserError, load_experiment, parse_assignments

CLASSES = [
    {"name": f"class [{number}]", "images": 10, "removed": number % 10, "share": number % 10 / 10}
    for number in range(30)
]
REPORT = {
    "images": 1000,
    "kept": 600,
    "removed": 400,
    "removed_share": 0.4,
    "threshold": 0.125,
    "sets": 600,
    "sets_of_several": 50,
    "largest": {"size": 120, "farthest": [1, 2], "distance": 0.31, "distance_is_sure": False},
    "search": {"method": "index", "neighbours": 32, "recall": 0.995},
    "asked": {"threshold": None, "remove": 0.5},
    "classes": CLASSES,
}


class Preparing:
    """Stands in for the preparation on the cluster."""

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def balance(self):
        return {"path": "/stores/balance/1f", "report": REPORT}


@pytest.mark.parametrize("settings", [{}, {"balance__remove": 0}])
def test_without_a_threshold_or_a_share_the_error_says_what_to_give(preset, tmp_path, settings):
    with pytest.raises(
        UserError,
        match=r"give a share such as --set balance.remove=0.437, or .*--set balance.threshold=0.1",
    ):
        balance_images(tiny.experiment(preset, tmp_path, **settings), False, [])


def test_the_report_and_the_command_to_train_are_printed(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("beamclip.cli.balance.open_preparation", Preparing)
    words = ["--preset", str(preset), "--storage", str(tmp_path), "--set", "optimizer.lr=0.1"]
    with pytest.raises(SystemExit) as ended:
        main(["balance", *words, "--set", "balance.remove=0.5"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    for part in (
        "400, 40.0 %",
        "cosine distance 0.125",
        "120 images; the two farthest are at least 0.310 apart",
        "which finds 99.5 % of the ten",
    ):
        assert part in printed
    assert (
        "class [9]  90.0 % of 10" in printed and "…" in printed and printed.count("class [") == 20
    )
    assert "asked for 50.0 %, removed 40.0 %" in printed
    assert "chosen from train with data.split_seed=0 and data.val_fraction=0.1" in printed
    assert printed.rstrip().endswith(train_command(words, "/stores/balance/1f"))


def test_a_folder_with_a_space_is_quoted_in_the_command():
    assert train_command(["--data", "my images"], "/s") == (
        "beamclip train --data 'my images' --set data.keep=/s/kept.json "
        "--set balance.remove=null --set balance.threshold=null"
    )


def test_the_command_to_train_does_not_balance_again_even_if_the_preset_does(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "data: {source: demo, image_size: 32}\nstudent: {image_size: 32}\nbalance: {remove: 0.25}\n"
    )
    _, _, *words = shlex.split(train_command(["--preset", str(tmp_path / "mine.yaml")], "/s"))
    values = parse_assignments(
        [value for word, value in zip(words[::2], words[1::2], strict=True) if word == "--set"]
    )
    assert not load_experiment(str(tmp_path / "mine.yaml"), values).balance.active
