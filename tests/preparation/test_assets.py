import json

import numpy as np
import pytest

from beamclip.config import TowerConfig, UserError, with_values
from beamclip.preparation.assets import AssetFacts, Assets, TeacherAssets, open_assets
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext


def test_assets_survive_json(assets):
    assert Assets.from_json(assets.to_json()) == assets
    others = (
        TeacherAssets(None, "/anchors/b", {"model": "demo"}, 0.02),
        TeacherAssets("/views/c", "/anchors/c", {"model": "demo"}),
    )
    several = Assets(assets.packed, (*assets.teachers, *others), "/anchors/a", assets.facts)
    assert Assets.from_json(several.to_json()) == several


def test_the_json_keys_of_facts_are_those_of_sweep_records(assets):
    """Sweeps that were begun by another version are resumed by these keys."""
    content = json.loads(assets.to_json())
    assert list(content) == ["packed", "teachers", "classes", "facts", "trained", "clusters"]
    assert list(content["facts"]) == [
        "data_key",
        "classes",
        "train_images",
        "teacher",
        "teacher_fingerprint",
        "width",
        "teacher/zero_shot_val_top1",
        "teacher/zero_shot_val_top1_low",
        "teacher/zero_shot_test_top1",
        "teacher/zero_shot_test_top1_low",
        "anchors",
        "teacher/images_encoded",
        "teacher/images_encoded_in_all",
    ]


def test_facts_of_an_earlier_version_are_read():
    facts = AssetFacts.from_json({"data_key": "k", "balance": {"kept": 3}})
    assert (facts.data_key, facts.balance, facts.images_encoded) == ("k", {"kept": 3}, 0)


def test_opened_stores_match_each_other(experiment, assets):
    opened = open_assets(assets, experiment.data)
    assert len(opened.teachers) == 1
    assert np.array_equal(opened.teachers[0].views.ids, opened.splits.train)
    assert assets.classes == assets.teachers[0].anchors  # the students match the data's own classes
    assert opened.classes.names == opened.teachers[0].anchors.names == opened.packed.names
    assert (
        opened.classes.embeddings.shape == (4, opened.width) == (4, opened.teachers[0].views.width)
    )


def test_each_teacher_is_opened_with_its_own_stores_tower_and_temperature(
    experiment, stores, other_folder, teacher_folder
):
    values = {"teacher.others": [{"model": f"local-dir:{other_folder}", "temperature": 0.02}]}
    several = with_values(experiment, values)
    first, second = open_assets(prepare(several, PreparationContext(stores)), several.data).teachers
    assert (first.temperature, second.temperature) == (None, 0.02)
    assert (first.views.width, second.views.width) == (16, 24)
    assert (first.anchors.embeddings.shape, second.anchors.embeddings.shape) == ((4, 16), (4, 24))
    assert first.tower == TowerConfig(model=f"local-dir:{teacher_folder}", batch_size=64)
    assert second.tower == TowerConfig(model=f"local-dir:{other_folder}")


def test_a_teacher_that_runs_inside_training_has_anchors_and_no_views(experiment, stores):
    live = with_values(experiment, {"views.teacher": "live"})
    (teacher,) = open_assets(prepare(live, PreparationContext(stores)), live.data).teachers
    assert teacher.views is None
    assert teacher.anchors.embeddings.shape == (4, 16)


def test_a_store_that_was_damaged_after_planning_is_a_user_error(experiment, copied_stores):
    assets = prepare(experiment, PreparationContext(copied_stores))
    path = next(
        (copied_stores / "embeddings" / assets.teachers[0].views.rsplit("/", 1)[1]).glob(
            "rows-*.npy"
        )
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"rows-00000.npy has .* bytes instead of .*--repair"):
        open_assets(assets, experiment.data)
