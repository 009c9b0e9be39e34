import itertools
from dataclasses import replace

from beamclip.reporting.comparison import compare
from beamclip.reporting.groups import Row
from beamclip.reporting.setting_plots import _lines, _x_key, temperature_plot

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"
BLANK = Row("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def trial(val, **values):
    keys = {
        "t": TAU_T,
        "s": TAU_S,
        "seed": "seed",
        "prompts": "anchors.prompt_set",
        "lr": "optimiser.lr",
    }
    metrics = {"linear_probe/val_top1": val, "linear_probe/test_top1": val - 1}
    return replace(BLANK, values={keys[k]: str(v) for k, v in values.items()}, metrics=metrics)


def is_picture(path):
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_a_measured_sweep_becomes_a_picture(uri, finished, tmp_path):
    path = temperature_plot(compare(uri, "temp").measured, tmp_path / "plots" / "temp.png")
    assert is_picture(path)


def test_one_varied_number_is_enough(tmp_path):
    rows = [trial(40 + i, lr=10.0**-i) for i in range(3)]
    assert _x_key(rows) == "optimiser.lr"
    assert is_picture(temperature_plot(rows, tmp_path / "one.png"))


def test_student_temperature_is_x_and_the_other_makes_the_lines():
    rows = [trial(40, t=t, s=s) for t, s in itertools.product((0.01, 0.02, 0.05), (0.05, 0.1))]
    assert _x_key(rows) == TAU_S
    assert list(_lines(rows, TAU_S, "linear_probe/val_top1")) == [
        "τ_T = 0.01",
        "τ_T = 0.02",
        "τ_T = 0.05",
    ]


def test_seeds_share_a_point_and_prompt_sets_do_not():
    rows = [
        trial(40 + seed, s=s, seed=seed, prompts=p)
        for s in (0.1, 0.2)
        for seed in (0, 1)
        for p in ("a", "b")
    ]
    lines = _lines(rows, TAU_S, "linear_probe/val_top1")
    assert list(lines) == ["prompt_set = a", "prompt_set = b"]
    assert lines["prompt_set = a"] == {0.1: [40, 41], 0.2: [40, 41]}


def test_nothing_to_draw_makes_no_file(tmp_path):
    path = tmp_path / "none.png"
    assert temperature_plot([], path) is None
    assert temperature_plot([trial(40), trial(41)], path) is None
    assert temperature_plot([trial(40, prompts="a"), trial(41, prompts="b")], path) is None
    assert temperature_plot([trial(40, seed=0), trial(41, seed=1)], path) is None
    assert not path.exists()
