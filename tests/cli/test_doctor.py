import pytest
import torch

from beamclip.cli.doctor import describe_classes
from beamclip.cli.main import main

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.mark.slow
def test_doctor_prints_a_line_for_every_check(preset, storage, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--preset", str(preset), "--storage", str(storage)])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 0
    assert [line.split()[:2] for line in lines[:7]] == [
        ["✓", name]
        for name in ("storage", "tracking", "data", "teacher", "student", "devices", "ray")
    ]
    assert lines[-1] == "ready"
    assert "4 classes, 160 train, 40 test images" in lines[2]


@pytest.mark.slow
def test_doctor_continues_after_a_failed_check_and_exits_with_1(preset, storage, tmp_path, capsys):
    bad = [
        "--data",
        str(tmp_path / "none"),
        "--set",
        "student.backbone=resnet1888",
        "--gpus-per-worker",
        "1",
    ]
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--preset", str(preset), "--storage", str(storage), *bad])
    printed = capsys.readouterr()
    assert caught.value.code == 1
    marks = {line.split()[1]: line[0] for line in printed.out.splitlines()[:7]}
    good = dict.fromkeys(("storage", "tracking", "teacher", "ray"), "✓")
    assert marks == good | {
        "data": "✗",
        "student": "✗",
        "devices": "✓" if torch.cuda.is_available() else "✗",
    }


def test_doctor_says_how_class_names_were_read(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("0 tench\n1 dog\n")
    by_list = describe_classes(("tench", "dog"), ("n01440764", None), str(path))
    assert by_list == f"class names tench (n01440764), dog from {path} (format: numbered from 0)"
    numbers = describe_classes(("1", "10", "2", "3"), (None,) * 4, None)
    assert numbers.startswith("class names 1, 10, 2, …; a teacher needs words")
    commas = describe_classes(("tench, Tinca tinca", "dog"), (None, None), None)
    assert commas == "class names 'tench, Tinca tinca', dog"
