import numpy as np
import pytest

from beamclip.config import RECIPES, Recipe
from beamclip.data import draw

IDS = np.arange(4000)


def views(number, count=4000):
    return np.full(count, number)


def test_a_view_does_not_depend_on_the_batch_it_is_drawn_in():
    batch = draw(RECIPES["simclr"], IDS[:50], views(3, 50), seed=1)
    alone = draw(RECIPES["simclr"], IDS[20:21], views(3, 1), seed=1)
    for name in ("left", "width", "factors", "jitter_order", "blur_sigma", "gray", "flip"):
        assert np.array_equal(getattr(batch, name)[20:21], getattr(alone, name))


@pytest.mark.parametrize(
    ("recipe", "view", "seed"), [("weak", 0, 0), ("simclr", 1, 0), ("simclr", 0, 1)]
)
def test_recipe_view_and_seed_each_change_the_draw(recipe, view, seed):
    base = draw(RECIPES["simclr"], IDS[:10], views(0, 10), 0)
    other = draw(RECIPES[recipe], IDS[:10], views(view, 10), seed)
    assert not np.allclose(base.left, other.left)


def test_crops_are_inside_the_image_with_the_recipe_s_area_and_ratio():
    p = draw(RECIPES["simclr"], IDS, views(0), 0)
    assert (p.left >= 0).all()
    assert (p.left + p.width <= 1 + 1e-6).all()
    assert (p.top + p.height <= 1 + 1e-6).all()
    area, ratio = p.width * p.height, p.width / p.height
    assert area.min() > 0.08 - 1e-4
    assert ratio.min() > 0.74
    assert ratio.max() < 1.34
    assert area.mean() == pytest.approx(
        0.5, abs=0.05
    )  # a little under (0.08 + 1) / 2: large flat crops do not fit


def test_crops_that_never_fit_become_the_central_crop():
    ids = np.arange(20)
    flat = draw(Recipe(area=(0.9, 1.0), ratio=(2.0, 3.0)), ids, ids, 0)
    assert (
        (flat.width == 1).all()
        and (flat.height == 0.5).all()
        and (flat.left == 0).all()
        and (flat.top == 0.25).all()
    )


def test_probabilities_are_those_of_the_recipe():
    p = draw(RECIPES["simclr"], IDS, views(0), 0)
    assert p.flip.mean() == pytest.approx(0.5, abs=0.03)
    assert (p.jitter_order[:, 0] >= 0).mean() == pytest.approx(0.8, abs=0.03)
    assert p.gray.mean() == pytest.approx(0.2, abs=0.03)
    assert (p.blur_sigma > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert p.factors[:, 0].min() >= 0.2
    assert p.factors[:, 0].max() <= 1.8
    assert abs(p.factors[:, 3]).max() <= 0.2


def test_the_order_of_color_changes_is_a_random_permutation():
    order = draw(RECIPES["simclr"], IDS, views(0), 0).jitter_order
    done = order[order[:, 0] >= 0]
    assert (np.sort(done, axis=1) == np.arange(4)).all()
    assert np.bincount(done[:, 0], minlength=4).min() > 0.2 * len(done)


def test_the_canonical_view_is_the_same_for_every_view_id():
    assert not RECIPES["center"].random
    a, b = (draw(Recipe(), IDS[:5], views(v, 5), 0) for v in (0, 9))
    assert (a.left == b.left).all()
    assert (a.width == 1).all()
    assert not a.flip.any()


def test_small_crops_are_small():
    p = draw(RECIPES["multicrop"], IDS, views(0), 0, small=True)
    assert (p.width * p.height).max() <= 0.14 + 1e-4
