import itertools
from dataclasses import replace

from beamclip.reporting.comparison import Comparison, compare
from beamclip.reporting.groups import RunRow
from beamclip.reporting.setting_plots import (
    _choose_x,
    _number_curves,
    _value_curves,
    number_plot,
    value_plot,
)

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"
PROMPTS = "anchors.prompt_set"
METRICS = ("linear_probe/val_top1", "linear_probe/test_top1", "zero_shot/test_top1")
BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def trial(val, **values):
    keys = {
        "t": TAU_T,
        "s": TAU_S,
        "seed": "seed",
        "prompts": "anchors.prompt_set",
        "lr": "optimizer.lr",
    }
    metrics = {"linear_probe/val_top1": val, "linear_probe/test_top1": val - 1}
    return replace(BLANK, settings={keys[k]: str(v) for k, v in values.items()}, metrics=metrics)


def is_picture(path):
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_a_finished_sweep_gives_a_plot(uri, finished, tmp_path):
    path = number_plot(compare(uri, "temp").measured, tmp_path / "plots" / "temp.png")
    assert is_picture(path)


def test_one_varied_number_is_enough_for_a_plot(tmp_path):
    rows = [trial(40 + i, lr=10.0**-i) for i in range(3)]
    assert _choose_x(rows) == "optimizer.lr"
    assert is_picture(number_plot(rows, tmp_path / "one.png"))


def test_student_temperature_is_the_x_axis_and_each_teacher_temperature_a_line():
    rows = [trial(40, t=t, s=s) for t, s in itertools.product((0.01, 0.02, 0.05), (0.05, 0.1))]
    assert _choose_x(rows) == TAU_S
    assert list(_number_curves(rows, TAU_S, "linear_probe/val_top1")) == [
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
    lines = _number_curves(rows, TAU_S, "linear_probe/val_top1")
    assert list(lines) == ["prompt_set = a", "prompt_set = b"]
    assert lines["prompt_set = a"] == {0.1: [40, 41], 0.2: [40, 41]}


def test_nothing_to_plot_writes_no_file(tmp_path):
    path = tmp_path / "none.png"
    assert number_plot([], path) is None
    assert number_plot([trial(40), trial(41)], path) is None
    assert number_plot([trial(40, prompts="a"), trial(41, prompts="b")], path) is None
    assert number_plot([trial(40, seed=0), trial(41, seed=1)], path) is None
    assert not path.exists()


def comparison(**space):
    """All combinations of the values in `space`; the metrics grow from trial to trial."""
    keys = {"prompts": PROMPTS, "lr": "optimizer.lr", "seed": "seed"}
    rows = []
    for index, values in enumerate(itertools.product(*space.values())):
        settings = {keys[name]: str(value) for name, value in zip(space, values, strict=True)}
        rows.append(replace(BLANK, settings=settings, metrics=dict.fromkeys(METRICS, 40.0 + index)))
    varied = tuple(keys[name] for name in space)
    return Comparison("e", "s", "q", "FINISHED", METRICS[0], varied, tuple(rows), (), ())


def test_prompt_sets_give_a_plot(tmp_path):
    sweep = comparison(prompts=["plain", "openai_80"], lr=[0.1, 0.2], seed=[0, 1])
    assert is_picture(value_plot(sweep, PROMPTS, tmp_path / "prompt_set.png"))


def test_other_settings_are_curves_and_many_of_them_are_averaged():
    few = comparison(prompts=["a", "b"], lr=[0.1, 0.2])
    many = comparison(prompts=["a", "b"], lr=[0.1 * i for i in range(1, 10)])
    curves = _value_curves(few.groups, PROMPTS, METRICS[0])
    means = {
        name: {value: points[0][0] for value, points in curve.items()}
        for name, curve in curves.items()
    }
    assert means == {
        "lr=0.1": {"a": 40.0, "b": 42.0},
        "lr=0.2": {"a": 41.0, "b": 43.0},
    }
    assert list(_value_curves(many.groups, PROMPTS, METRICS[0])) == ["mean of all"]


def test_one_value_gives_no_curve(tmp_path):
    path = tmp_path / "none.png"
    assert value_plot(comparison(prompts=["a"], lr=[0.1, 0.2]), PROMPTS, path) is None
    assert value_plot(comparison(lr=[0.1]), PROMPTS, path) is None
