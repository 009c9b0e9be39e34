import dataclasses

import numpy as np

from beamclip.config import RECIPES
from beamclip.teachers import ViewSet

IDS = np.arange(3, 60, 3)


def test_the_views_are_in_the_key_and_a_seed_only_where_it_matters():
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    others = [{"ids": IDS[:-1]}, {"recipe": RECIPES["simclr"]}, {"count": 3}, {"seed": 1}]
    assert all(dataclasses.replace(views, **other).parts() != views.parts() for other in others)
    still = ViewSet.center(IDS)
    assert dataclasses.replace(still, seed=1).parts() == still.parts()


def test_ids_of_another_integer_type_are_the_same_ids():
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    assert dataclasses.replace(views, ids=IDS.astype(np.int32)).parts() == views.parts()


def test_joined_views_hold_both():
    one, other = ViewSet(IDS[:5], RECIPES["weak"], 4, 0), ViewSet(IDS[3:], RECIPES["weak"], 2, 0)
    both = one.joined(other)
    assert np.array_equal(both.ids, IDS) and both.count == 4 and both.images == 4 * len(IDS)
