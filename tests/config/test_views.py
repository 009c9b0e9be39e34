import math

import pytest

from beamclip.config import RECIPES, Recipe, UserError, ViewsConfig, load_experiment

STRONG = Recipe(
    area=(0.2, 1.0),
    ratio=(0.5, 2.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    hue=0.2,
    gray=0.2,
    blur=0.5,
    blur_sigma=(0.1, 2.1),
)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_at_strength_1_a_recipe_is_not_changed(name):
    assert ViewsConfig(recipe=name).resolve() is RECIPES[name]
    assert ViewsConfig(recipe=name, strength=1.0).resolve() is RECIPES[name]


def test_half_strength_halves_ranges_and_probabilities():
    half = STRONG.scaled(0.5)
    assert half.area == (0.6, 1.0)
    assert half.ratio == pytest.approx((math.sqrt(0.5), math.sqrt(2)))
    assert (half.brightness, half.contrast, half.hue) == (0.4, 0.0, 0.1)
    assert half.blur_sigma == (0.1, 1.1)
    assert (half.flip, half.jitter, half.gray, half.blur) == (0.5, 0.8, 0.2, 0.5)


def test_double_strength_is_limited_to_valid_values():
    twice = STRONG.scaled(2)
    assert twice.area == (0.02, 1.0)
    assert twice.ratio == pytest.approx((0.25, 4))
    assert (twice.brightness, twice.hue) == (1.0, 0.4)
    assert Recipe(jitter=1.0, hue=0.4).scaled(2).hue == 0.5
    assert Recipe(area=(0.01, 1.0)).scaled(2).area == (
        0.01,
        1.0,
    )  # already smaller than any strength would make it


def test_the_upper_end_of_the_area_stays_and_bounds_the_lower_one():
    assert Recipe(area=(0.3, 0.5)).scaled(0.5).area == (0.5, 0.5)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_at_strength_0_only_flips_are_left(name):
    nothing = ViewsConfig(recipe=name, strength=0).resolve()
    assert nothing == Recipe(flip=RECIPES[name].flip)
    assert nothing.random == (name != "center")


def test_unused_parameters_of_a_recipe_are_not_scaled():
    assert RECIPES["center"].scaled(0.5) == RECIPES["center"]
    weak = RECIPES["weak"].scaled(0.5)
    assert weak == Recipe(area=(0.6, 1.0), ratio=weak.ratio, flip=0.5)


def test_small_crops_keep_their_size_and_number():
    strong, scaled = RECIPES["multicrop"], RECIPES["multicrop"].scaled(0.5)
    assert (scaled.small_crops, scaled.small_area, scaled.small_side) == (
        strong.small_crops,
        strong.small_area,
        strong.small_side,
    )


def test_rounding_of_the_strength_does_not_make_another_store():
    assert 1.5 * 0.2 != 0.3  # in binary
    assert Recipe(jitter=0.5, hue=0.2).scaled(1.5) == Recipe(jitter=0.5, hue=0.3)


def test_custom_recipes_are_scaled_too():
    assert ViewsConfig(
        recipe="mine", custom={"mine": STRONG}, strength=0.5
    ).resolve() == STRONG.scaled(0.5)


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), "strong"])
def test_an_invalid_strength_is_named(value):
    with pytest.raises(UserError, match=r"views\.strength is"):
        load_experiment("demo", {"views.strength": value})
