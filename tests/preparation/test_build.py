import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import RECIPES, UserError, with_values
from beamclip.data import draw
from beamclip.data.augmentation.render import render
from beamclip.evaluation import wilson_interval
from beamclip.preparation import embedding_store
from beamclip.preparation.assets import open_assets
from beamclip.preparation.build import prepare, prepare_all
from beamclip.preparation.context import PreparationContext
from beamclip.stores import StoreDamaged, key_of

# Val and test, encoded once for zero-shot.
HELD_OUT = 32 + 32


@pytest.fixture
def encoded_views(monkeypatch):
    """Every view that is encoded for a store: (teacher, recipe and seed, sample, view)."""
    views = []
    original = embedding_store.render_for_teacher

    def watch(teacher, packed, view_set, ids, view):
        drawn = json.dumps(view_set.render_parts(), sort_keys=True)
        views.extend((key_of(teacher.fingerprint), drawn, number, view) for number in ids.tolist())
        return original(teacher, packed, view_set, ids, view)

    monkeypatch.setattr(embedding_store, "render_for_teacher", watch)
    return views


def test_facts_are_counted(experiment, assets):
    facts = assets.facts
    assert (facts.classes, facts.train_images, facts.width) == (4, 128, 16)
    assert facts.images_encoded == 128 * 2 + HELD_OUT
    assert facts.teacher == Path(experiment.teacher.model.removeprefix("local-dir:")).name
    assert 0 <= facts.zero_shot_val.top1 <= 100
    assert 0 <= facts.zero_shot_test.top1 <= 100
    for accuracy in (facts.zero_shot_val, facts.zero_shot_test):
        assert accuracy.low == wilson_interval(accuracy.top1, 32)[0]


def test_teacher_zero_shot_is_that_of_the_canonical_test_views(experiment, assets, teacher):
    opened = open_assets(assets, experiment.data)
    ids = opened.splits.test
    views = draw(RECIPES["center"], ids, np.zeros(len(ids), int), 0)
    embeddings = teacher.encode_images(
        render(torch.from_numpy(opened.packed.read(ids)), views, teacher.pixels)
    )
    nearest = (embeddings @ opened.classes.embeddings.T).argmax(1).numpy()
    expected = 100 * (nearest == opened.packed.labels[ids]).mean()
    assert assets.facts.zero_shot_test.top1 == pytest.approx(
        # fp16 may change one prediction.
        expected,
        abs=100 / len(ids) + 1e-6,
    )


def test_a_second_call_encodes_nothing_and_opens_the_same(experiment, stores, assets, monkeypatch):
    for job in (
        "beamclip.preparation.embedding_store.EmbedJob.open",
        "beamclip.data.packing.PackJob.open",
    ):
        monkeypatch.setattr(job, lambda *arguments: pytest.fail("something was made again"))
    again = prepare(experiment, PreparationContext(stores))
    assert again.facts.images_encoded == 0
    assert (again.packed, again.teachers) == (assets.packed, assets.teachers)


@pytest.mark.parametrize(
    "values",
    [
        {"objective.teacher_temperature": 0.01, "objective.student_temperature": 0.5},
        {"student.backbone": "test_resnet", "student.projector": "linear"},
        {"seed": 3, "optimizer.epochs": 9, "optimizer.lr": 0.5, "anchors.count": 2},
        {"teacher.batch_size": 5, "teacher.actors": [1, 1]},
    ],
)
def test_temperatures_students_and_seeds_need_no_new_stores(
    experiment, stores, assets, monkeypatch, values
):
    monkeypatch.setattr(
        "beamclip.stores.build._build", lambda *arguments: pytest.fail("a store was built")
    )
    made = prepare(with_values(experiment, values), PreparationContext(stores))
    assert (made.teachers[0].views, made.teachers[0].anchors) == (
        assets.teachers[0].views,
        assets.teachers[0].anchors,
    )


def test_another_prompt_set_encodes_no_image(experiment, stores, assets, encoded_views):
    other = prepare(
        with_values(experiment, {"anchors.prompt_set": "openai_7"}), PreparationContext(stores)
    )
    assert other.facts.images_encoded == 0 and encoded_views == []
    assert other.teachers[0].anchors != assets.teachers[0].anchors
    assert other.teachers[0].views == assets.teachers[0].views


def test_central_teacher_views_serve_every_recipe_and_any_number_of_views(
    experiment, packed_only, encoded_views
):
    made = [
        prepare(
            with_values(
                experiment,
                {"views.teacher": "center", "views.recipe": recipe, "views.stored": stored},
            ),
            PreparationContext(packed_only),
        )
        for recipe, stored in (("weak", 2), ("simclr", 2), ("simclr", 7))
    ]
    assert [assets.facts.images_encoded for assets in made] == [192, 0, 0]
    assert made[0].facts.images_encoded_in_all == 192
    assert len({assets.teachers[0].views for assets in made}) == 1 and len(encoded_views) == 192


SPACES = {
    "the same": ([{}, {}], 256 + HELD_OUT),
    "train images": ([{"data.train_images": 32}, {}, {"data.train_images": 64}], 256 + HELD_OUT),
    "stored views": ([{"views.stored": stored} for stored in (1, 3, 2)], 384 + HELD_OUT),
    "both": ([{"views.stored": 1}, {"views.stored": 3, "data.train_images": 32}], 384 + HELD_OUT),
    "two recipes": ([{"views.recipe": recipe} for recipe in ("weak", "simclr")], 512 + HELD_OUT),
    "two seeds": ([{"views.seed": seed} for seed in (0, 1)], 512 + HELD_OUT),
    "center and same": (
        [{"views.teacher": teacher} for teacher in ("same", "center")],
        256 + 192,
    ),
    "center over recipes": (
        [
            {"views.teacher": "center", "views.recipe": recipe}
            for recipe in ("weak", "simclr", "center")
        ],
        192,
    ),
    "live and same": (
        [{"views.teacher": teacher} for teacher in ("live", "same")],
        256 + HELD_OUT,
    ),
    # The larger val holds 32 of the other's train.
    "two splits": ([{"data.val_fraction": fraction} for fraction in (0.2, 0.4)], 256 + 96),
    "batch sizes": (
        [
            {"teacher.batch_size": size, "views.stored": stored}
            for size, stored in ((16, 1), (64, 3))
        ],
        384 + HELD_OUT,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
def test_over_a_whole_space_no_teacher_encodes_a_view_twice(
    experiment, packed_only, encoded_views, space
):
    cells, images = SPACES[space]
    experiments = {
        str(number): with_values(experiment, values) for number, values in enumerate(cells)
    }
    made = prepare_all(experiments, PreparationContext(packed_only))
    assert len(encoded_views) == len(set(encoded_views)) == images
    for key, assets in made.items():
        _serves(assets, experiments[key])


def _serves(assets, experiment):
    """Check that the stores have every view that the experiment needs in any epoch."""
    opened = open_assets(assets, experiment.data)
    if experiment.views.teacher != "live":
        needed = {0}
        if experiment.views.teacher == "same":
            needed = {experiment.views.views_of(epoch)[0] for epoch in range(12)}
        stored = opened.teachers[0].views
        assert all(stored.gather(opened.splits.train, view).any(axis=1).all() for view in needed)


@pytest.mark.slow
def test_a_space_of_eight_trials_encodes_the_same_views_as_one_trial(
    experiment, packed_only, encoded_views, tmp_path
):
    other = shutil.copytree(packed_only, tmp_path / "other")
    prepare(experiment, PreparationContext(packed_only))
    views_of_one = list(encoded_views)
    eight = {}
    for tau, backbone, prompts in product(
        (0.01, 0.1), ("test_vit", "test_resnet"), ("plain", "openai_7")
    ):
        values = {
            "objective.student_temperature": tau,
            "student.backbone": backbone,
            "anchors.prompt_set": prompts,
        }
        eight[str(values)] = with_values(experiment, values)
    made = prepare_all(eight, PreparationContext(other))
    assert len(made) == 8 and encoded_views[len(views_of_one) :] == views_of_one
    assert len({assets.teachers[0].views for assets in made.values()}) == 1
    assert len({assets.teachers[0].anchors for assets in made.values()}) == 2


@pytest.mark.slow
def test_every_teacher_has_its_own_store_anchors_and_temperature(
    experiment, packed_only, other_folder, encoded_views
):
    other = {"model": f"local-dir:{other_folder}", "temperature": 0.02, "prompt_set": "openai_7"}
    several = with_values(experiment, {"teacher.others": [other]})
    made = prepare(several, PreparationContext(packed_only))
    assert (
        made.facts.images_encoded
        == len(encoded_views)
        == len(set(encoded_views))
        == 2 * 256 + HELD_OUT
    )
    assert made.facts.teacher == f"{Path(experiment.teacher.model).name} + {other_folder.name}"
    first, second = made.teachers
    assert first.views != second.views and first.anchors != second.anchors
    assert (first.temperature, second.temperature) == (None, 0.02)
    manifests = [
        json.loads((Path(teacher.anchors) / "manifest.json").read_text())
        for teacher in made.teachers
    ]
    assert [(manifest["prompt_set"], manifest["width"]) for manifest in manifests] == [
        ("plain", 16),
        ("openai_7", 24),
    ]
    stored = [teacher.views for teacher in open_assets(made, several.data).teachers]
    assert [(views.views, views.width, len(views.ids)) for views in stored] == [
        (2, 16, 128),
        (2, 24, 128),
    ]
    alone = prepare(experiment, PreparationContext(packed_only))
    assert alone.facts.images_encoded == 0 and alone.teachers[0].views == first.views


@pytest.mark.slow
def test_one_clip_with_two_prompt_sets_encodes_each_view_once(
    experiment, packed_only, encoded_views
):
    twice = {"model": experiment.teacher.model, "prompt_set": "openai_7"}
    made = prepare(
        with_values(experiment, {"teacher.others": [twice]}), PreparationContext(packed_only)
    )
    assert len(encoded_views) == len(set(encoded_views)) == 256 + HELD_OUT
    first, second = made.teachers
    assert first.views == second.views and first.anchors != second.anchors


def test_a_teacher_inside_training_has_no_store_of_training_views(
    experiment, packed_only, encoded_views
):
    made = prepare(
        with_values(experiment, {"views.teacher": "live"}), PreparationContext(packed_only)
    )
    assert made.teachers[0].views is None
    assert made.facts.images_encoded == len(encoded_views) == HELD_OUT
    (store,) = (packed_only / "embeddings").glob("*/manifest.json")
    assert np.load(store.with_name("ids.npy")).tolist() == sorted(
        {sample for _, _, sample, _ in encoded_views}
    )


@pytest.mark.slow
def test_an_image_tower_with_other_weights_is_another_teacher_with_the_same_anchors(
    experiment, packed_only, teacher_folder, tmp_path
):
    folder = shutil.copytree(teacher_folder, tmp_path / "clip")
    named = with_values(experiment, {"teacher.model": f"local-dir:{folder}"})
    before = prepare(named, PreparationContext(packed_only))
    assert prepare(named, PreparationContext(packed_only)).facts.images_encoded == 0
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] += 1e-6
    save_file(weights, folder / "open_clip_model.safetensors")
    after = prepare(named, PreparationContext(packed_only))
    assert after.facts.images_encoded == before.facts.images_encoded == 256 + HELD_OUT
    assert after.facts.teacher == before.facts.teacher
    assert after.facts.teacher_fingerprint != before.facts.teacher_fingerprint
    assert (
        after.teachers[0].views != before.teachers[0].views
        and after.teachers[0].anchors == before.teachers[0].anchors
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"anchors.count": 5},
            r"anchors.count 5 is more than the 4 class names of the data; lower it",
        ),
        (
            {"optimizer.batch_size": 129},
            r"optimizer.batch_size 129 is more than the 128 training images; lower it",
        ),
        (
            {"objective.name": "csm+seed", "objective.seed.queue": 129},
            r"objective.seed.queue is 129.*128",
        ),
        (
            {"objective.name": "swav", "objective.swav.queue": 129},
            r"objective.swav.queue is 129.*128",
        ),
        (
            {"data.train_images": 12},
            r"optimizer.batch_size 16 is more than the 12 training images; lower it",
        ),
        (
            {"data.train_images": 129},
            r"data.train_images is 129, but without val only 128 are left; lower it",
        ),
        (
            {"student.backbone": "test_vitt"},
            r"student.backbone test_vitt is not a timm model; did you mean .*test_vit",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data_are_a_user_error_before_any_teacher_is_loaded(
    experiment, stores, assets, monkeypatch, values, expected
):
    monkeypatch.setattr(
        "beamclip.preparation.context.load_teacher",
        lambda *arguments: pytest.fail("a teacher was loaded"),
    )
    experiments = {"good": experiment, "bad": with_values(experiment, values)}
    with pytest.raises(UserError, match=expected):
        prepare_all(experiments, PreparationContext(stores))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_is_named_and_encoded_again_only_with_repair(
    experiment, copied_stores, assets, encoded_views
):
    shard = copied_stores / "embeddings" / Path(assets.teachers[0].views).name / "rows-00001.npy"
    whole = shard.read_bytes()
    _flip(shard)
    with pytest.raises(StoreDamaged, match=r"rows-00001.npy has changed since it was written"):
        prepare(experiment, PreparationContext(copied_stores))
    assert encoded_views == []
    made = prepare(experiment, PreparationContext(copied_stores, repair=True))
    assert made.facts.images_encoded == len(encoded_views) == 2 * 64 and shard.read_bytes() == whole


def test_a_damaged_shard_of_images_is_named_and_packed_again_only_with_repair(
    experiment, copied_stores, assets, encoded_views
):
    shard = copied_stores / "packed" / Path(assets.packed).name / "images-00001.npy"
    whole = shard.read_bytes()
    _flip(shard)
    with pytest.raises(StoreDamaged, match=r"images-00001.npy has changed since it was written"):
        prepare(experiment, PreparationContext(copied_stores))
    made = prepare(experiment, PreparationContext(copied_stores, repair=True))
    assert shard.read_bytes() == whole and (
        made.facts.images_encoded,
        encoded_views,
    ) == (0, [])


def test_repair_does_not_encode_views_that_a_larger_store_has(
    experiment, copied_stores, encoded_views
):
    smaller = with_values(experiment, {"views.stored": 1, "data.train_images": 64})
    assert (
        prepare(smaller, PreparationContext(copied_stores, repair=True)).facts.images_encoded == 0
        and encoded_views == []
    )
