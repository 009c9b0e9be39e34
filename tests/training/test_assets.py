import json
from pathlib import Path

import numpy as np
import pytest
import torch

from beamclip.config import RECIPES, UserError, with_values
from beamclip.data import draw, render
from beamclip.training.assets import Assets, open_assets, prepare

CPU = torch.device("cpu")


def test_facts_are_counted_and_survive_json(experiment, assets):
    assert Assets.from_json(assets.to_json()) == assets
    facts = assets.facts
    assert (facts["classes"], facts["train_images"], facts["width"]) == (4, 128, 16)
    assert facts["teacher/images_encoded"] == 128 * 2 + 32 + 32  # two views of train, val and test once for zero-shot
    assert facts["teacher"] == Path(experiment.teacher.model.removeprefix("local-dir:")).name
    assert 0 <= facts["teacher/zero_shot_val_top1"] <= 100
    assert 0 <= facts["teacher/zero_shot_test_top1"] <= 100


def test_a_second_call_encodes_nothing_and_opens_the_same(experiment, stores, assets, monkeypatch):
    monkeypatch.setattr("beamclip.teachers.embeddings._write_shard", None)  # calling it would fail
    again = prepare(experiment, stores, CPU)
    assert again.facts["teacher/images_encoded"] == 0
    assert (again.packed, again.teacher_views, again.anchors) == (assets.packed, assets.teacher_views, assets.anchors)


def test_temperatures_students_and_seeds_need_nothing_new(experiment, stores, assets, monkeypatch):
    monkeypatch.setattr("beamclip.stores._build", None)
    values = {"objective.teacher_temperature": 0.01, "student.backbone": "test_resnet", "seed": 3, "optimiser.epochs": 9}
    assert prepare(with_values(experiment, values), stores, CPU).teacher_views == assets.teacher_views


def test_another_prompt_set_passes_no_image(experiment, stores, assets):
    other = prepare(with_values(experiment, {"anchors.prompt_set": "openai_7"}), stores, CPU)
    assert other.facts["teacher/images_encoded"] == 0
    assert other.anchors != assets.anchors
    assert other.teacher_views == assets.teacher_views


def test_teacher_zero_shot_is_that_of_the_canonical_test_views(experiment, assets, teacher):
    opened = open_assets(assets, experiment.data)
    ids = opened.splits.test
    views = draw(RECIPES["center"], ids, np.zeros(len(ids), int), 0)
    embeddings = teacher.encode_images(render(torch.from_numpy(opened.packed.read(ids)), views, teacher.pixels))
    nearest = (embeddings @ opened.anchors.embeddings.T).argmax(1).numpy()
    expected = 100 * (nearest == opened.packed.labels[ids]).mean()
    assert assets.facts["teacher/zero_shot_test_top1"] == pytest.approx(expected, abs=100 / len(ids) + 1e-6)  # fp16 may turn one


def test_what_is_opened_belongs_together(experiment, assets):
    opened = open_assets(assets, experiment.data)
    assert np.array_equal(opened.teacher_views.ids, opened.splits.train)
    assert opened.anchors.names == opened.packed.names
    assert opened.anchors.embeddings.shape == (4, opened.teacher_views.width)


def test_canonical_teacher_views_serve_every_recipe(experiment, stores):
    keys = set()
    for recipe in ("weak", "simclr"):
        made = prepare(with_values(experiment, {"views.teacher": "center", "views.recipe": recipe}), stores, CPU)
        keys.add(made.teacher_views)
        assert json.loads(made.to_json())["facts"]["teacher/images_encoded"] == (128 if recipe == "weak" else 0)
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"anchors.count": 5}, r"anchors.count 5 is more than the 4 class names of the data; lower it"),
        ({"optimiser.batch_size": 129}, r"optimiser.batch_size 129 is more than the 128 training images; lower it"),
        ({"data.train_images": 12}, r"optimiser.batch_size 16 is more than the 12 training images; lower it"),
    ],
)
def test_what_does_not_fit_the_data_is_a_sentence_before_the_teacher_is_loaded(experiment, stores, assets, monkeypatch, values, expected):
    monkeypatch.setattr("beamclip.training.assets.load_teacher", None)
    with pytest.raises(UserError, match=expected):
        prepare(with_values(experiment, values), stores, CPU)
