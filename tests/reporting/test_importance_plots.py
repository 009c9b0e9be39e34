import itertools
import random
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from beamclip.reporting import importance_plots
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import RunRow
from beamclip.reporting.importance_plots import effects_plot, parallel_plot

VAL = "linear_probe/val_top1"
BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)
SPACE = {
    "objective.student_temperature": [0.02, 0.1],
    "anchors.prompt_set": [
        "plain",
        "openai_80",
        "ensemble_of_openai_80_hypernym_and_gloss",
        "ensemble_of_openai_7_hypernym_and_gloss",
    ],
    "teacher.model": ["ViT-B-32", "local-dir:/data/teachers/clip-vit-b-16-datacomp-xl"],
    "views.recipe": ["weak", "simclr_small", "multicrop"],
    "optimizer.lr": [0.001, 0.003, 0.01, 0.03],
    "student.projector": ["linear", "mlp"],
}


def comparison(varied, ranges=(), trials=None):
    """A sweep over the first `varied` settings, or with trials drawn from `ranges` and lists."""
    dice = random.Random(0)
    space = dict(itertools.islice(SPACE.items(), varied))
    cells = [dict(zip(space, cell, strict=True)) for cell in itertools.product(*space.values())]
    if trials:
        cells = [
            {
                key: 10 ** dice.uniform(-3, 0) if key in ranges else dice.choice(space[key])
                for key in space
            }
            for _ in range(trials)
        ]
    rows = [
        replace(
            BLANK, settings={k: str(v) for k, v in cell.items()}, metrics={VAL: dice.gauss(40, 3)}
        )
        for cell in cells
    ]
    rows.sort(key=lambda row: -row.metrics[VAL])
    return Comparison(
        "e", "s", "q", "FINISHED", VAL, tuple(space), tuple(rows), (), (), frozenset(ranges)
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were made, laid out as they are written."""
    figures = []
    save = importance_plots.save_figure

    def keep(figure, path):
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(importance_plots, "save_figure", keep)
    return figures


def boxes(figure, texts):
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


def is_picture(path):
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


_HAIR = 5  # pixels: boxes of turned text are a little larger than the text
RANDOM = {"ranges": ["objective.student_temperature", "optimizer.lr"], "trials": 24}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("varied", "options"), [(2, {}), (3, {}), (4, {}), (5, {}), (6, {}), (6, RANDOM)]
)
def test_texts_are_inside_the_figure_and_do_not_overlap(drawn, tmp_path, varied, options):
    assert is_picture(
        effects_plot(comparison(varied, **options), tmp_path / "plots" / "effects.png")
    )
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.axison]
    titles = boxes(figure, [axes.title for axes in panels])
    assert len(panels) == len(titles) == varied
    assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))
    for axes in panels:
        labels = [
            text
            for text in axes.get_xticklabels()
            if axes.get_xlim()[0] <= text.get_position()[0] <= axes.get_xlim()[1]
        ]
        extents = boxes(figure, labels)
        assert len(extents) > 1
        assert all(
            box.x0 > -_HAIR and box.x1 < figure.bbox.x1 + _HAIR and box.y0 > -_HAIR
            for box in extents
        )
        turned = (
            labels[0].get_rotation() > 0
        )  # boxes of turned text overlap although the text does not
        assert turned or not any(one.overlaps(other) for one, other in itertools.pairwise(extents))


def test_panels_are_sorted_by_importance_and_show_every_trial(drawn, tmp_path):
    sweep = comparison(3)
    effects_plot(sweep, tmp_path / "effects.png")
    panels = [axes for axes in drawn[0].axes if axes.axison]
    shares = [float(axes.get_title().split(": ")[1].split(" %")[0]) for axes in panels]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    for axes in panels:
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert sorted(y for line in dots for y in line.get_ydata()) == sorted(
            row.metrics[VAL] for row in sweep.trials
        )


def test_long_names_are_shortened_where_they_are_equal(drawn, tmp_path):
    effects_plot(comparison(3), tmp_path / "effects.png")
    labels = {text.get_text() for axes in drawn[0].axes for text in axes.get_xticklabels()}
    assert labels == {
        *("0.02", "0.1", "ViT-B-32", "plain", "openai_80"),
        *("local-dir:/…atacomp-xl", "…ai_80_hypernym_and_g…", "…ai_7_hypernym_and_gl…"),
    }


@pytest.mark.parametrize(("varied", "options"), [(3, {}), (6, RANDOM)])
def test_every_trial_is_a_line_across_all_settings_and_the_best_is_thick(
    drawn, tmp_path, varied, options
):
    sweep = comparison(varied, **options)
    assert is_picture(parallel_plot(sweep, tmp_path / "parallel.png"))
    (axes,) = drawn[0].axes
    lines = [line for line in axes.lines if len(line.get_ydata()) == varied + 1]
    assert len(lines) == len(sweep.trials)
    (thick,) = [line for line in lines if line.get_linewidth() > 2]
    assert thick.get_ydata()[-1] == 1.0
    assert all(-0.06 < y < 1.06 for line in lines for y in line.get_ydata())
    last = [text.get_text() for text in axes.get_xticklabels()]
    assert last[-1] == "linear_probe/\nval_top1"
    for texts in (axes.get_xticklabels(), axes.texts):
        assert not any(
            one.overlaps(other) for one, other in itertools.combinations(boxes(drawn[0], texts), 2)
        )


def test_the_seed_gets_no_panel_and_all_seeds_of_the_best_settings_are_thick(drawn, tmp_path):
    rows = [
        replace(row, settings=row.settings | {"seed": str(seed)})
        for row in comparison(3).trials
        for seed in (0, 1)
    ]
    sweep = replace(comparison(3), varied=(*comparison(3).varied, "seed"), trials=tuple(rows))
    effects_plot(sweep, tmp_path / "effects.png")
    parallel_plot(sweep, tmp_path / "parallel.png")
    assert len([axes for axes in drawn[0].axes if axes.axison]) == 3
    (axes,) = drawn[1].axes
    thick = [line for line in axes.lines if len(line.get_ydata()) == 4 and line.get_linewidth() > 2]
    assert [line.get_ydata()[-1] for line in thick] == [1.0, 1.0]


def test_nothing_to_plot_writes_no_file(tmp_path):
    path = tmp_path / "none.png"
    assert effects_plot(comparison(1), path) is None
    assert effects_plot(replace(comparison(3), trials=()), path) is None
    assert effects_plot(replace(comparison(3), trials=comparison(3).trials[:1]), path) is None
    assert parallel_plot(comparison(2), path) is None
    assert not path.exists()
