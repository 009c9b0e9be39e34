"""Passes of several experiments, described and merged in a plan."""

import numpy as np
import pytest

from beamclip.config import load_experiment
from beamclip.preparation.plan import PlannedPass
from beamclip.teachers import ViewSet


def planned_pass(ids, count=2, exact=True, recipe="weak"):
    """A pass over these samples, as an experiment with this recipe needs it."""
    experiment = load_experiment("demo", {"views.recipe": recipe})
    views = ViewSet(np.asarray(ids), experiment.views.resolve(), count, experiment.views.seed)
    return PlannedPass(experiment.teacher, None, views, recipe, exact)


@pytest.mark.parametrize(
    ("count", "name_recipe", "description"),
    [
        (1, False, "1 view"),
        (4, False, "4 views"),
        (4, True, "4 views (weak)"),
        (1, True, "1 view (weak)"),
    ],
)
def test_a_pass_names_its_number_of_views_and_its_recipe_if_there_are_several(
    count, name_recipe, description
):
    assert planned_pass(range(3), count).describe(name_recipe) == description


def test_the_number_of_central_views_is_not_named():
    central = planned_pass(range(3), 1, recipe="center")
    assert central.describe(name_recipe=True) == "the central view"


@pytest.mark.parametrize(
    ("first", "second", "exact"),
    [
        ((range(4), True), (range(2, 6), True), True),
        # It is not known which of the six samples there will be.
        ((range(4), True), (range(2, 6), False), False),
        # The exact pass holds them all.
        ((range(6), True), (range(2, 6), False), True),
        ((range(6), False), (range(2, 6), True), False),
    ],
)
def test_two_passes_are_merged_over_the_samples_of_both(first, second, exact):
    merged = planned_pass(first[0], 2, first[1]).merge(planned_pass(second[0], 3, second[1]))
    assert merged.views.ids.tolist() == list(range(6))
    assert (merged.views.count, merged.exact) == (3, exact)
