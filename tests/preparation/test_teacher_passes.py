import numpy as np
import pytest

from beamclip.config import RECIPES, with_values
from beamclip.data import split
from beamclip.preparation.teacher_passes import (
    held_out_views,
    merge_passes,
    required_passes,
    training_views,
)


@pytest.fixture
def splits(experiment, packed):
    return split(packed, experiment.data)


def passes_of(experiment, packed, **values):
    """The passes of the experiment with other settings; `__` in a name stands for a dot."""
    cell = with_values(experiment, {key.replace("__", "."): value for key, value in values.items()})
    splits = split(packed, cell.data)
    return required_passes(cell, packed, splits, splits.train)


def images(passes):
    return sum(teacher_pass.views.images for teacher_pass in passes)


@pytest.mark.parametrize(
    ("values", "recipe", "count", "seed"),
    [
        ({}, "weak", 2, 0),
        ({"views.stored": 5, "views.seed": 3}, "weak", 5, 3),
        # All views of this recipe are the same.
        ({"views.recipe": "center", "views.stored": 5}, "center", 1, 0),
        (
            {
                "views.teacher": "center",
                "views.recipe": "simclr",
                "views.stored": 5,
                "views.seed": 3,
            },
            "center",
            1,
            0,
        ),
    ],
)
def test_the_pass_holds_the_stored_views_of_train(experiment, splits, values, recipe, count, seed):
    views = training_views(with_values(experiment, values), splits.train)
    assert (views.recipe, views.count, views.render_parts()["seed"]) == (
        RECIPES[recipe],
        count,
        seed,
    )
    assert np.array_equal(views.ids, splits.train)


def test_a_teacher_inside_training_needs_no_pass_over_train(experiment, splits):
    assert training_views(with_values(experiment, {"views.teacher": "live"}), splits.train) is None


def test_zero_shot_is_measured_on_the_central_view_of_val_and_test(splits):
    views = held_out_views(splits)
    assert views.ids.tolist() == sorted([*splits.val.tolist(), *splits.test.tolist()])
    assert (views.recipe, views.count) == (RECIPES["center"], 1)


OTHER = {"model": "local-dir:/other", "temperature": 0.02, "prompt_set": "openai_7"}


@pytest.mark.parametrize(("teacher", "of_train"), [("same", 2), ("center", 2), ("live", 0)])
def test_every_teacher_sees_train_and_the_first_one_val_and_test(
    experiment, packed, splits, teacher, of_train
):
    passes = passes_of(experiment, packed, views__teacher=teacher, teacher__others=[OTHER])
    assert [len(teacher_pass.views.ids) for teacher_pass in passes] == [128] * of_train + [64]
    first, other = experiment.teacher.model, "local-dir:/other"
    assert [teacher_pass.tower.model for teacher_pass in passes] == [
        *[first, other][:of_train],
        first,
    ]


@pytest.mark.parametrize(("objective", "of_train"), [("seed", 1), ("seed+csm", 2), ("simclr", 0)])
def test_other_teachers_encode_only_what_an_objective_uses(experiment, packed, objective, of_train):
    passes = passes_of(
        experiment,
        packed,
        objective__name=objective,
        teacher__others=[OTHER],
        views__pair_recipe="simclr",
    )
    assert [len(teacher_pass.views.ids) for teacher_pass in passes] == [128] * of_train + [64]


def test_settings_that_change_no_embedding_share_a_pass(experiment, packed):
    """Temperature, prompts and batch size do not change an embedding."""
    same = {"model": experiment.teacher.model, "temperature": 0.5, "prompt_set": "openai_7"}
    passes = passes_of(experiment, packed, teacher__others=[same], teacher__actors=[1, 2])
    assert [teacher_pass.key for teacher_pass in passes[:2]] == [passes[0].key] * 2
    assert images(merge_passes(passes).values()) == 2 * 128 + 64


@pytest.mark.parametrize(
    "values",
    [
        {"teacher__model": "local-dir:/other"},
        {"teacher__precision": "bf16"},
        {"views__recipe": "simclr"},
        {"views__seed": 1},
        {"views__teacher": "center"},
    ],
)
def test_other_weights_or_other_views_are_another_pass(experiment, packed, values):
    assert passes_of(experiment, packed)[0].key != passes_of(experiment, packed, **values)[0].key


def test_other_images_are_another_pass(experiment, packed, copied_packed):
    assert passes_of(experiment, packed)[0].key != passes_of(experiment, copied_packed)[0].key


@pytest.fixture
def copied_packed(data_config, tmp_path):
    """The same images, packed smaller."""
    from beamclip.data import pack

    return pack(data_config.model_copy(update={"image_size": 16}), tmp_path)


def test_a_merged_pass_has_all_samples_and_the_largest_number_of_views(experiment, packed, splits):
    cells = [
        {"views__stored": 3, "data__train_images": 32},
        {"views__stored": 1},
        {"data__train_images": 64},
    ]
    passes = merge_passes(
        teacher_pass for values in cells for teacher_pass in passes_of(experiment, packed, **values)
    )
    training, held_out = passes.values()
    assert np.array_equal(training.views.ids, splits.train) and training.views.count == 3
    assert (
        np.array_equal(held_out.views.ids, held_out_views(splits).ids) and held_out.views.count == 1
    )


def test_central_views_of_train_val_and_test_are_one_pass(experiment, packed):
    (merged,) = merge_passes(passes_of(experiment, packed, views__teacher="center")).values()
    assert merged.views.ids.tolist() == list(range(192))
