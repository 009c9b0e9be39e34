"""Inputs of a sweep that were moved after it began."""

from dataclasses import replace

import pytest

from beamclip.config import Sweep, UserError, choice, load_experiment, trial_experiment
from beamclip.stores.moved_places import add_moved_places, places_in, with_moved_places
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord, find_sweep

SETTINGS = {
    "data.source": "folder",
    "data.path": "/old/images",
    "data.class_names": "/old/names.txt",
    "data.keep": "/old/kept.json",
    "anchors.vocabulary": "/old/words.txt",
    "teacher.model": "local-dir:/old/a",
    "teacher.others": [{"model": "local-dir:/old/b", "temperature": 0.1}],
    "objective.name": "csm",
}
BASE = load_experiment("demo", SETTINGS)


def test_every_place_is_listed_and_names_are_not():
    assert list(places_in(BASE)) == [
        ("data.path", "/old/images"),
        ("data.class_names", "/old/names.txt"),
        ("data.keep", "/old/kept.json"),
        ("anchors.vocabulary", "/old/words.txt"),
        ("teacher.model", "local-dir:/old/a"),
        ("teacher.model", "local-dir:/old/b"),
    ]
    weights = {"teacher.model": "ViT-B-32", "teacher.pretrained": "/old/weights.pt"}
    assert list(places_in(load_experiment("demo", weights))) == [
        ("teacher.pretrained", "/old/weights.pt")
    ]
    assert list(places_in(load_experiment("demo"))) == []


def test_new_places_are_put_into_the_settings_and_no_others_change():
    places = {
        "data.path": {"/old/images": "/new/images"},
        "data.class_names": {"/old/names.txt": "/new/names.txt"},
        "data.keep": {"/old/kept.json": "/new/kept.json"},
        "anchors.vocabulary": {"/old/words.txt": "/new/words.txt"},
        "teacher.model": {
            "local-dir:/old/a": "local-dir:/new/a",
            "local-dir:/old/b": "local-dir:/new/b",
        },
    }
    moved = with_moved_places(BASE, places)
    assert moved.model_dump_json() == BASE.model_dump_json().replace("/old/", "/new/")
    assert with_moved_places(BASE, {"data.path": {"/another": "/new"}}) == BASE
    assert with_moved_places(BASE, {}) is BASE


def test_a_relative_new_place_becomes_absolute_and_an_earlier_one_is_replaced(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").touch()
    given = {"data.path": "images", "data.class_names": "names.txt"}
    moved = add_moved_places([BASE], {"data.path": {"/old/images": "/elsewhere"}}, given)
    assert moved == {
        "data.path": {"/old/images": f"{tmp_path}/images"},
        "data.class_names": {"/old/names.txt": f"{tmp_path}/names.txt"},
    }
    # Back in its first place.
    assert add_moved_places([BASE], moved, {"data.path": "/old/images"}) == {
        "data.class_names": moved["data.class_names"]
    }


def test_a_place_that_only_a_variant_has_can_be_named(tmp_path):
    variants = {"a": {}, "b": {"teacher.model": "local-dir:/gone/teacher"}}
    sweep = Sweep(name="s", variants=variants, space={"variant": choice("a", "b")})
    # Of two places, the missing one was moved.
    there = load_experiment("demo", {"teacher.model": f"local-dir:{tmp_path}"})
    trials = [trial_experiment(sweep, there, {"variant": name}) for name in variants]
    moved = add_moved_places(trials, {}, {"teacher.model": "local-dir:/new"})
    assert moved == {"teacher.model": {"local-dir:/gone/teacher": "local-dir:/new"}}
    assert [with_moved_places(trial, moved).teacher.model for trial in trials] == [
        f"local-dir:{tmp_path}",
        "local-dir:/new",
    ]


def test_further_teachers_are_named_in_their_order():
    given = {"teacher.others": [{"model": "local-dir:/new/b"}]}
    moved = add_moved_places([BASE], {}, given)
    assert moved == {"teacher.model": {"local-dir:/old/b": "local-dir:/new/b"}}
    assert with_moved_places(BASE, moved).teacher.others[0].temperature == 0.1


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        ({}, {"data.path": ""}, "--data has no path after --resume; write where the input is"),
        ({}, {"data.keep": 3}, "--set data.keep has no path after --resume"),
        ({}, {"teacher.model": "ViT-B-32"}, "teacher.model ViT-B-32 is not the path of a teacher"),
        (
            {"data.class_names": None},
            {"data.class_names": "/new"},
            "--resume can't take another data.class_names, which names no file or folder in this",
        ),
        (
            {},
            {"teacher.model": "local-dir:/new"},
            (
                "--set teacher.model gives one path, but the trials' local-dir:/old/a, "
                "local-dir:/old/b are all missing; put all but one back, or links to them"
            ),
        ),
        (
            {},
            {"teacher.others": [{"model": "local-dir:/new", "temperature": 0.3}]},
            "teacher.others.0.temperature is not a path, and a resumed sweep keeps its other",
        ),
        ({}, {"teacher.others": []}, "--set teacher.others after --resume needs the sweep's"),
    ],
)
def test_new_places_that_fit_no_input_are_refused(settings, given, says):
    with pytest.raises(UserError) as caught:
        add_moved_places([load_experiment("demo", SETTINGS | settings)], {}, given)
    assert str(caught.value).startswith(says)


def test_the_record_keeps_first_places_and_asset_keys_and_lists_new_ones(tmp_path):
    old, new = f"{tmp_path}/old", f"{tmp_path}/new"
    base = load_experiment("demo", SETTINGS | {"storage.path": old})
    record = SweepRecord(Sweep(name="s"), base, "20260101-000000-0001")
    record.save()
    assert '"moved"' not in (tmp_path / "old/sweeps/s/20260101-000000-0001/sweep.json").read_text()
    moved = {"data.path": {"/old/images": f"{old}/images"}}
    replace(record, moved=moved).save()
    found = find_sweep("s", base)
    assert found.moved == moved and asset_key(found.base) == asset_key(base)
    # If the storage is moved then, the new place moves with it.
    (tmp_path / "old").rename(new)
    found = find_sweep("s", load_experiment("demo", {"storage.path": new}))
    assert found.moved == {"data.path": {"/old/images": f"{new}/images"}}


def test_a_normalization_that_the_sweep_lacks_is_filled_in_for_teachers_without_one():
    base = load_experiment("demo", SETTINGS | {"teacher.mean": [0.5, 0.5, 0.5]})
    given = {"teacher.mean": [0.4, 0.5, 0.6], "teacher.interpolation": "bilinear"}
    places = add_moved_places([base], {}, given)
    assert places == {
        "teacher.mean": {"": "[0.4, 0.5, 0.6]"},
        "teacher.interpolation": {"": '"bilinear"'},
    }
    first, other = with_moved_places(base, places).teacher.all()
    assert first.mean == (0.5, 0.5, 0.5)
    assert other.mean == (0.4, 0.5, 0.6)
    assert first.interpolation == other.interpolation == "bilinear"
    assert first.std is None


def test_a_normalization_that_a_sweep_has_stays():
    base = load_experiment("demo", {"teacher.mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UserError, match=r"can't take another teacher\.mean: .* leave it out"):
        add_moved_places([base], {}, {"teacher.mean": [0.4, 0.4, 0.4]})


@pytest.mark.parametrize("value", [[0.5, 0.5], [0.5, 0.5, 2.0], "gray", None])
def test_a_normalization_that_is_none_is_a_user_error(value):
    with pytest.raises(UserError, match=r"teacher\.mean"):
        add_moved_places([BASE], {}, {"teacher.mean": value})
