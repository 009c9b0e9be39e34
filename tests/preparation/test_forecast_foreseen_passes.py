import numpy as np
import pytest

from beamclip.config import load_experiment
from beamclip.preparation.forecast import ForeseenPass, joined
from beamclip.teachers import ViewSet


def foreseen(ids, count=2, sure=True, recipe="weak"):
    """A pass over these samples, as an experiment with this recipe would ask for it."""
    experiment = load_experiment("demo", {"views.recipe": recipe})
    views = ViewSet(np.asarray(ids), experiment.views.resolve(), count, experiment.views.seed)
    return ForeseenPass(experiment.teacher, None, views, recipe, sure)


@pytest.mark.parametrize(
    ("count", "several", "says"),
    [
        (1, False, "1 view"),
        (4, False, "4 views"),
        (4, True, "4 views (weak)"),
        (1, True, "1 view (weak)"),
    ],
)
def test_a_pass_says_how_many_views_and_of_which_recipe_where_there_are_several(
    count, several, says
):
    assert foreseen(range(3), count).described(several) == says


def test_central_views_need_no_number():
    assert foreseen(range(3), 1, recipe="center").described(several=True) == "the central view"


@pytest.mark.parametrize(
    ("one", "other", "sure"),
    [
        ((range(4), True), (range(2, 6), True), True),
        (
            (range(4), True),
            (range(2, 6), False),
            False,
        ),  # which of the six there will be is not known
        ((range(6), True), (range(2, 6), False), True),  # the sure one holds them all
        ((range(6), False), (range(2, 6), True), False),
    ],
)
def test_two_passes_become_one_over_the_samples_of_both(one, other, sure):
    both = joined(foreseen(one[0], 2, one[1]), foreseen(other[0], 3, other[1]))
    assert (both.views.ids.tolist(), both.views.count, both.sure) == (list(range(6)), 3, sure)
