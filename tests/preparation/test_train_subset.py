import json

import numpy as np
import pytest

from beamclip.balance.kept_list import FORMAT, describe_split
from beamclip.config import UserError, with_values
from beamclip.data import split
from beamclip.preparation.assets import open_assets
from beamclip.preparation.build import prepare, prepare_all
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.plan import plan
from beamclip.preparation.train_subset import candidate_ids

pytestmark = pytest.mark.slow

CLIP_CID = {"objective.name": "clip_cid", "objective.clip_cid.clusters": 7}


@pytest.fixture
def prepared(experiment, packed_only):
    """`prepared(**settings)`: (experiment, assets, opened assets), all in one folder."""

    def make(**values):
        cell = with_values(
            experiment, {key.replace("__", "."): value for key, value in values.items()}
        )
        assets = prepare(cell, PreparationContext(packed_only))
        return cell, assets, open_assets(assets, cell.data)

    return make


@pytest.fixture
def keep(experiment, packed, tmp_path):
    """`keep(ids, data)`: write a kept list, as a balance with these data settings would."""

    def write(ids, data=None):
        path, facts = tmp_path / "mine.json", {} if data is None else describe_split(data, 128)
        path.write_text(
            json.dumps(
                {
                    "format": FORMAT,
                    "images": packed.key,
                    "ids": [int(number) for number in ids],
                    **facts,
                }
            )
        )
        return str(path)

    return write


def test_a_balanced_run_trains_on_fewer_images_and_is_probed_on_all(prepared):
    _, assets, opened = prepared(balance__remove=0.437)
    assert len(opened.trained) == 72 == assets.facts.train_images and set(opened.trained) < set(
        opened.splits.train
    )
    assert len(opened.splits.train) == 128
    assert np.array_equal(
        # No other image's views were encoded.
        opened.teachers[0].views.ids,
        opened.trained,
    )
    assert assets.facts.balance["removed_share"] == pytest.approx(1 - 72 / 128)
    assert assets.facts.images_encoded == 128 + 72 * 2 + 64


def test_without_balance_all_training_images_are_used(prepared):
    _, assets, opened = prepared(balance__remove=0)
    assert assets.trained is None and assets.clusters is None and opened.clusters is None
    assert (
        np.array_equal(opened.trained, opened.splits.train)
        and "balance" not in assets.facts.to_json()
    )
    assert assets.facts.images_encoded == 128 * 2 + 64


def test_a_sweep_over_balance_shares_needs_one_central_pass_one_forest_and_merged_views(
    experiment, packed_only
):
    cells = {
        str(share): with_values(experiment, {"balance.remove": share})
        for share in (0, 0.2, 0.437, 0.6)
    }
    assets = prepare_all(cells, PreparationContext(packed_only))
    opened = [open_assets(of_cell, cells[share].data) for share, of_cell in assets.items()]
    assert [len(of_cell.trained) for of_cell in opened] == [128, 102, 72, 51]
    # The trial without balance needs the views of all images.
    assert len({of_cell.teachers[0].views for of_cell in assets.values()}) == 1
    manifests = [
        json.loads(path.read_text())
        for path in (packed_only / "embeddings").glob("*/manifest.json")
    ]
    assert sorted(manifest["samples"] * manifest["views"] for manifest in manifests) == [192, 256]
    assert len(list((packed_only / "forests").glob("*/manifest.json"))) == 1


def test_if_the_teacher_sees_central_views_balance_needs_no_pass(prepared):
    _, assets, _ = prepared(views__teacher="center", balance__remove=0.437)
    # Train, val and test once, in one store.
    assert assets.facts.images_encoded == 192


@pytest.mark.parametrize("teacher", ["same", "live"])
def test_clusters_are_those_of_the_images_trained_on(prepared, teacher):
    _, _, opened = prepared(
        balance__remove=0.25,
        views__teacher=teacher,
        **{key.replace(".", "__"): value for key, value in CLIP_CID.items()},
    )
    assert np.array_equal(
        opened.clusters.ids, opened.trained
    ) and opened.clusters.centers.shape == (7, 16)
    assert set(opened.clusters.labels_of(opened.trained).tolist()) <= set(range(7))


def test_a_second_call_builds_nothing(prepared, monkeypatch):
    settings = {
        "balance__threshold": 0.01,
        **{key.replace(".", "__"): value for key, value in CLIP_CID.items()},
    }
    first = prepared(**settings)[1]
    monkeypatch.setattr(
        "beamclip.stores.build._build", lambda *arguments: pytest.fail("a store was built")
    )
    again = prepared(**settings)[1]
    assert (again.trained, again.clusters) == (
        first.trained,
        first.clusters,
    ) and again.facts.images_encoded == 0


def test_the_planned_stores_are_built(experiment, packed_only):
    cells = [with_values(experiment, {"balance.remove": share, **CLIP_CID}) for share in (0, 0.437)]
    before = plan(cells, PreparationContext(packed_only))
    assert [
        (need.store, need.description) for need in before if need.store in ("balance", "clusters")
    ] == [
        ("clusters", "7 of 128 images"),
        ("balance", "128 images without 43.7 %"),
        ("clusters", "7 of about 72 images"),
    ]
    views = [(need.description, need.images) for need in before if need.store == "embeddings"]
    assert sorted(views) == [
        ("tiny_clip0, 2 views of 128 images", 256),
        ("tiny_clip0, the central view of 192 images", 192),
    ]
    prepare_all(
        {str(number): cell for number, cell in enumerate(cells)}, PreparationContext(packed_only)
    )
    after = plan(cells, PreparationContext(packed_only))
    assert all(need.exists and need.images == 0 for need in after) and len(after) == len(before)
    for kind in ("balance", "clusters"):
        assert len(list((packed_only / kind).glob("*/manifest.json"))) == sum(
            need.store == kind for need in after
        )


def test_before_images_are_packed_a_plan_is_approximate(experiment, tmp_path):
    needs = plan(
        [with_values(experiment, {"balance.threshold": 0.1, **CLIP_CID})],
        PreparationContext(tmp_path),
    )
    assert [need.description for need in needs if need.store in ("balance", "clusters")] == [
        "about 128 images joined below 0.1",
        "7 of about 128 images",
    ]
    assert list(tmp_path.iterdir()) == [] and not any(need.exists for need in needs)


def test_a_kept_list_from_the_user_restricts_training(prepared, keep):
    ids = [number for number in range(160) if number % 2]
    _, assets, opened = prepared(data__keep=keep(ids))
    assert assets.facts.balance == {
        "kept_list": {
            "path": keep(ids),
            "listed": 80,
            "listed_in_train": len(opened.trained),
            "train": 128,
        }
    }
    assert (
        opened.trained.tolist() == sorted(set(ids) & set(opened.splits.train.tolist()))
        and len(opened.splits.train) == 128
    )
    assert np.array_equal(opened.teachers[0].views.ids, opened.trained)


def test_a_list_that_the_balance_wrote_trains_on_the_same_images(prepared):
    _, assets, balanced = prepared(balance__remove=0.437)
    _, again, listed = prepared(data__keep=f"{assets.trained}/kept.json")
    assert np.array_equal(listed.trained, balanced.trained)
    facts = again.facts.balance["kept_list"]
    assert (facts["listed"], facts["listed_in_train"], facts["train"], facts["never_weighed"]) == (
        72,
        72,
        128,
        0,
    )
    assert facts["made_with"] == {
        "split_seed": 0,
        "val_fraction": 0.2,
        "train_images": None,
        "weighed": 128,
    }


def test_a_kept_list_of_another_split_is_refused_and_that_split_is_named(experiment, packed, keep):
    kept = split(packed, experiment.data).train[::2]
    cell = with_values(experiment, {"data.keep": keep(kept, experiment.data), "data.split_seed": 1})
    splits = split(packed, cell.data)
    lost = len(np.intersect1d(kept, splits.val))
    message = (
        "was balanced with data.split_seed=0 and data.val_fraction=0.2, "
        f"but with the split of this run {lost} of its 64 images are in val"
    )
    with pytest.raises(UserError, match=message):
        candidate_ids(cell, packed, splits)
    with pytest.raises(UserError, match=message):
        candidate_ids(
            with_values(cell, {"data.train_images": 32}),
            packed,
            split(packed, with_values(cell, {"data.train_images": 32}).data),
        )


def test_a_kept_list_may_be_used_with_fewer_or_more_images_and_they_are_counted(
    prepared, experiment, packed, keep
):
    """With a smaller val, train has images that the balance has never seen."""
    path = keep(split(packed, experiment.data).train[::2], experiment.data)
    _, fewer, _ = prepared(data__keep=path, data__train_images=48)
    facts = fewer.facts.balance["kept_list"]
    assert facts["listed_in_train"] == fewer.facts.train_images < 64 and (
        facts["train"],
        facts["never_weighed"],
    ) == (48, 0)
    _, more, _ = prepared(data__keep=path, data__val_fraction=0.1)
    facts = more.facts.balance["kept_list"]
    assert (facts["listed_in_train"], facts["train"], facts["never_weighed"]) == (64, 144, 16)


def test_a_kept_list_from_the_user_works_with_any_split(prepared, keep):
    _, assets, _ = prepared(
        data__keep=keep(range(0, 160, 2)), data__split_seed=1, data__val_fraction=0.4
    )
    assert assets.facts.balance["kept_list"]["listed_in_train"] == assets.facts.train_images < 80


def test_balance_is_applied_to_the_images_of_a_kept_list(prepared, keep):
    kept = list(range(0, 160, 2))
    _, assets, opened = prepared(
        data__keep=keep(kept), balance__remove=0.25, optimizer__batch_size=8
    )
    assert assets.facts.balance["kept_list"]["listed"] == 80 and assets.facts.balance[
        "kept"
    ] == len(opened.trained)
    left = set(kept) & set(opened.splits.train.tolist())
    assert set(opened.trained.tolist()) < left and len(opened.trained) == round(0.75 * len(left))


def test_a_kept_list_without_any_training_image_is_a_user_error(experiment, packed, keep):
    splits = split(packed, experiment.data)
    cell = with_values(experiment, {"data.keep": keep(splits.val)})
    with pytest.raises(
        UserError, match=r"data.keep .*mine.json lists no image of this run's train split"
    ):
        candidate_ids(cell, packed, splits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"balance.threshold": 2.0},
            (
                r"optimizer.batch_size 16 is more than the \d+ training images that balance "
                "leaves; lower it"
            ),
        ),
        (
            {**CLIP_CID, "objective.clip_cid.clusters": 129},
            "objective.clip_cid.clusters 129 is more than the 128 images trained on",
        ),
        (
            {**CLIP_CID, "objective.clip_cid.clusters": 100, "balance.remove": 0.437},
            "clusters 100 is more than the 72 images trained on",
        ),
    ],
)
def test_more_images_or_clusters_than_the_data_has_are_a_user_error(
    experiment, packed_only, values, message
):
    with pytest.raises(UserError, match=message):
        prepare(with_values(experiment, values), PreparationContext(packed_only))
