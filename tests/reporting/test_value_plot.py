import itertools
from dataclasses import replace

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.reporting.value_plot import _lines, value_plot

PROMPTS = "anchors.prompt_set"
KEYS = ("linear_probe/val_top1", "linear_probe/test_top1", "zero_shot/test_top1")
BLANK = Row("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def comparison(**space):
    keys = {"prompts": PROMPTS, "lr": "optimiser.lr", "seed": "seed"}
    cells = [dict(zip(space, cell, strict=True)) for cell in itertools.product(*space.values())]
    rows = [
        replace(
            BLANK,
            values={keys[k]: str(v) for k, v in cell.items()},
            metrics=dict.fromkeys(KEYS, 40.0 + index),
        )
        for index, cell in enumerate(cells)
    ]
    return Comparison(
        "e", "s", "q", "FINISHED", KEYS[0], tuple(keys[key] for key in space), tuple(rows), (), ()
    )


def test_prompt_sets_become_a_picture(tmp_path):
    path = value_plot(
        comparison(prompts=["plain", "openai_80"], lr=[0.1, 0.2], seed=[0, 1]),
        PROMPTS,
        tmp_path / "prompt_set.png",
    )
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_other_settings_are_lines_and_many_of_them_are_averaged():
    few, many = (
        comparison(prompts=["a", "b"], lr=[0.1, 0.2]),
        comparison(prompts=["a", "b"], lr=[0.1 * i for i in range(1, 10)]),
    )
    assert {
        name: {value: found[0][0] for value, found in line.items()}
        for name, line in _lines(few.cells, PROMPTS, KEYS[0]).items()
    } == {
        "lr=0.1": {"a": 40.0, "b": 42.0},
        "lr=0.2": {"a": 41.0, "b": 43.0},
    }
    assert list(_lines(many.cells, PROMPTS, KEYS[0])) == ["mean of all"]


def test_one_value_is_no_curve(tmp_path):
    assert (
        value_plot(comparison(prompts=["a"], lr=[0.1, 0.2]), PROMPTS, tmp_path / "none.png") is None
    )
    assert value_plot(comparison(lr=[0.1]), PROMPTS, tmp_path / "none.png") is None
