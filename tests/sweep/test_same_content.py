"""A resumed sweep takes inputs from a new place only if they are the same."""

import json
import shutil

import pytest
from helpers import tiny

from beamclip.config import Sweep, UserError, load_experiment
from beamclip.preparation.build import prepare_all
from beamclip.preparation.context import PreparationContext
from beamclip.stores import key_of
from beamclip.stores.moved_places import with_moved_places
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.same_content import (
    check_same_inputs,
    check_same_stores,
    moved_lines,
    with_first_teacher_names,
)

IMAGES = {"data.path": {"/old/images": "/new/images"}}
TEACHER = {"teacher.model": {"local-dir:/old/a": "local-dir:/new/a"}}
NAMES = {"data.class_names": {"/old/names.txt": "/new/names.txt"}}
MEAN = {"teacher.mean": {"": "[0.5, 0.5, 0.5]"}}
KEEP = {"data.keep": {"/old/kept.json": "/new/kept.json"}}


def assets(packed="p1", classes="c1", anchors="a1", trained="t1", name="a", views=None):
    facts = {"teacher": name, "teacher_fingerprint": "f1"}
    teachers = [{"anchors": f"/s/anchors/{anchors}", "views": None}]
    if views:
        teachers.append({"anchors": "/s/anchors/b1", "views": views})
    stores = {"packed": f"/s/packed/{packed}", "classes": f"/s/anchors/{classes}"}
    stores["trained"] = f"/s/balance/{trained}"
    return json.dumps({**stores, "teachers": teachers, "facts": facts})


def record(moved, **stores):
    base = load_experiment("demo")
    texts = stores or {"key": assets()}
    return SweepRecord(Sweep(name="s"), base, "20260101-000000-0001", texts, moved=moved)


def test_the_same_images_and_teacher_are_taken():
    found = {"key": {"packed": "p1", "teachers": ["f1"]}}
    check_same_inputs(record(IMAGES | TEACHER), found)
    check_same_stores(record(IMAGES | TEACHER | NAMES | KEEP), {"key": assets()})


@pytest.mark.parametrize(
    ("moved", "found", "says"),
    [
        (
            IMAGES,
            {"packed": "p2", "teachers": ["f1"]},
            (
                "data.path /new/images differs from /old/images, with which this sweep was begun "
                "(its key is p2, not p1); give the path of an unchanged copy, in which the files "
                "also have the same times (cp -a), or start a new sweep"
            ),
        ),
        (
            TEACHER,
            {"packed": "p1", "teachers": ["f2"]},
            (
                "teacher.model /new/a differs from /old/a, with which this sweep was begun (its "
                "key is f2, not f1); give the path of an unchanged copy, or start a new sweep"
            ),
        ),
        (
            MEAN,
            {"packed": "p1", "teachers": ["f2"]},
            (
                "with teacher.mean [0.5, 0.5, 0.5], the teacher is not the one with which this "
                "sweep was begun (its key is f2, not f1); give the values that it had then, or "
                "start a new sweep"
            ),
        ),
    ],
)
def test_other_images_and_teachers_are_refused(moved, found, says):
    with pytest.raises(UserError) as caught:
        check_same_inputs(record(moved), {"key": found})
    assert str(caught.value) == says
    # A key that is unknown, because the storage was moved too, is compared with all.
    with pytest.raises(UserError):
        check_same_inputs(record(moved), {"another key": found})


def test_a_further_teacher_is_known_by_the_views_it_encoded(tmp_path):
    fingerprint = {"weights": "w"}
    (tmp_path / "manifest.json").write_text(json.dumps({"parts": {"teacher": fingerprint}}))
    begun = record(TEACHER, key=assets(views=str(tmp_path)))
    check_same_inputs(begun, {"key": {"packed": "p1", "teachers": ["f1", key_of(fingerprint)]}})
    with pytest.raises(UserError, match="its key is f3, not "):
        check_same_inputs(begun, {"key": {"packed": "p1", "teachers": ["f1", "f3"]}})


@pytest.mark.parametrize(
    ("moved", "now"),
    [
        (NAMES, {"classes": "c2"}),
        (NAMES, {"anchors": "a2"}),
        (KEEP, {"trained": "t2"}),
        (TEACHER, {"anchors": "a2"}),
    ],
)
def test_lists_with_other_content_are_refused(moved, now):
    (key,) = moved
    with pytest.raises(UserError, match=f"^{key} /new/.* differs from /old/"):
        check_same_stores(record(moved), {"key": assets(**now)})
    # What was not moved is not compared.
    check_same_stores(record({}), {"key": assets(**now)})


def test_a_teacher_keeps_the_name_of_its_first_folder():
    (text,) = with_first_teacher_names(record(TEACHER), {"key": assets(name="b")}).values()
    assert json.loads(text)["facts"]["teacher"] == "a"


def test_what_was_moved_is_said_and_whether_it_was_compared():
    assert moved_lines(record(IMAGES)) == [
        (
            "data.path /old/images is now read from /new/images, with the same content as when the "
            "sweep began; sweep.json has the new path"
        )
    ]
    begun = SweepRecord(Sweep(name="s"), load_experiment("demo"), "1", moved=IMAGES)
    assert "not compared, since the sweep had built nothing yet" in moved_lines(begun)[0]
    check_same_inputs(begun, {"key": {"packed": "p2", "teachers": ["f2"]}})


@pytest.mark.slow
def test_real_stores_are_the_same_after_a_move_and_not_after_an_edited_list(
    images, color_teacher, tmp_path
):
    first, now = tmp_path / "first", tmp_path / "now"
    shutil.copytree(images, first / "images")
    shutil.copytree(color_teacher, first / "teacher")
    (first / "names.txt").write_text("\n".join(sorted(tiny.COLORS)))
    preset = tiny.write_preset(tmp_path / "tiny.yaml", first / "images", first / "teacher")
    experiment = tiny.experiment(
        preset, tmp_path / "storage", data__class_names=f"{first}/names.txt"
    )
    moved = {
        "data.path": {f"{first}/images": f"{now}/images"},
        "data.class_names": {f"{first}/names.txt": f"{now}/names.txt"},
        "teacher.model": {f"local-dir:{first}/teacher": f"local-dir:{now}/teacher"},
    }

    def build(places):
        context = PreparationContext(tmp_path / "stores")
        built = prepare_all({"key": with_moved_places(experiment, places)}, context)
        return {"key": built["key"].to_json()}

    begun = build({})
    first.rename(now)
    resumed = build(moved)
    check_same_stores(record(moved, **begun), resumed)
    before, after = json.loads(begun["key"]), json.loads(resumed["key"])
    assert (before["packed"], before["classes"]) == (after["packed"], after["classes"])
    assert before["teachers"][0]["views"] == after["teachers"][0]["views"]
    assert after["teachers"][0]["tower"]["model"] == f"local-dir:{now}/teacher"
    assert after["facts"]["teacher/images_encoded"] == 0
    (now / "names.txt").write_text("\n".join(["azure", *sorted(tiny.COLORS)[1:]]))
    with pytest.raises(UserError, match=r"^data.class_names .*/now/names.txt differs from"):
        check_same_stores(record(moved, **begun), build(moved))
