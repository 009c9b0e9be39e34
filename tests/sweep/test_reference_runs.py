import json
from types import SimpleNamespace

import pytest

from beamclip.config import Sweep, choice, load_experiment, with_values
from beamclip.config.metrics import near_chance
from beamclip.evaluation import wilson_interval
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.reference_runs import demo_teacher_warning, write_references

TAG = "beamclip.teacher_near_chance"


class StubTracker:
    """Records reference runs by kind, and tags by run and key."""

    def __init__(self):
        self.run_id = "parent"
        self.tags = {}
        self.references = {}
        self.client = SimpleNamespace(
            set_tag=lambda run_id, key, value: self.tags.update({(run_id, key): value})
        )

    def log_reference(self, kind, tags, metrics):
        self.references[kind] = metrics


def record_of(accuracies, images=500, classes=10, space=None):
    """A sweep over prompt sets, with the accuracy of the teacher on val for each, in percent."""
    sweep = Sweep(name="s", space={"anchors.prompt_set": choice(*accuracies)} | (space or {}))
    base = load_experiment("demo")
    assets = {}
    for prompt_set, accuracy in accuracies.items():
        for values in [{"views.stored": stored} for stored in (1, 2)] if space else [{}]:
            facts = {
                "teacher": "tiny",
                "classes": classes,
                "teacher/images_encoded_in_all": 7,
                "teacher/zero_shot_test_top1": 50.0,
            }
            facts |= {
                "teacher/zero_shot_val_top1": accuracy,
                "teacher/zero_shot_val_top1_low": wilson_interval(accuracy, images)[0],
            }
            assets[asset_key(with_values(base, values | {"anchors.prompt_set": prompt_set}))] = (
                json.dumps({"facts": facts})
            )
    return SweepRecord(
        sweep, base, "id", assets, {"linear_probe/val_top1": 20.0, "zero_shot/val_top1": 9.0}
    )


@pytest.fixture
def written():
    """`written(record)`: the tracker."""

    def call(record):
        tracker = StubTracker()
        write_references(tracker, record)
        return tracker

    return call


@pytest.mark.parametrize(
    ("accuracy", "classes", "images", "near"),
    [
        (10.0, 10, 500, True),
        (17.0, 10, 500, True),  # 14.0 to 20.5: may be below 1.5 times chance
        (20.0, 10, 500, False),
        (44.5, 10, 1000, False),
        (0.1, 1000, 10_000, True),
        (1.0, 1000, 10_000, False),
        (55.0, 2, 1000, True),
        (70.0, 2, 1000, False),  # 1.5 times chance would be 75 %
        (95.0, 2, 40, False),
        (60.0, 10, 5, False),
    ],
)
def test_near_chance_depends_on_the_lower_end_of_the_interval(accuracy, classes, images, near):
    assert near_chance(wilson_interval(accuracy, images)[0], classes) == near


def test_guessing_itself_is_always_near_chance():
    for classes in (2, 3, 10, 1000):
        for images in (20, 1000, 50_000):
            assert near_chance(wilson_interval(100 / classes, images)[0], classes)


def test_a_teacher_that_knows_the_classes_gets_no_tag(written):
    tracker = written(record_of({"plain": 60.0}))
    assert tracker.tags == {}
    assert tracker.references == {
        "teacher": {
            "zero_shot/val_top1": 60.0,
            "zero_shot/test_top1": 50.0,
            "teacher/images_encoded": 7,
        },
        "untrained": {"linear_probe/val_top1": 20.0},
    }


def test_a_teacher_near_chance_gets_a_tag(written):
    tracker = written(record_of({"plain": 11.2}))
    case = "tiny with prompt set plain: 11.2 % of val right; guessing among 10 gets 10 %"
    assert tracker.tags == {("parent", TAG): case}


def test_only_the_prompt_sets_near_chance_are_named_each_once(written):
    record = record_of(
        {"plain": 9.0, "openai_7": 60.0, "openai_80": 12.0}, space={"views.stored": choice(1, 2)}
    )
    text = written(record).tags["parent", TAG]
    assert text.count("with prompt set") == 2
    assert "set plain" in text and "set openai_80" in text and "openai_7:" not in text


def test_the_demos_teacher_with_other_data_gets_a_warning():
    warning = demo_teacher_warning(
        load_experiment("demo", {"data.path": "/photographs", "data.source": "auto"})
    )
    assert warning.startswith(
        "teacher.model is demo, which knows nothing but the demo's own digits; "
        "for other images give a preset with a CLIP (--preset"
    )
    assert demo_teacher_warning(load_experiment("demo")) is None
    assert (
        demo_teacher_warning(
            load_experiment("cifar10", {"data.path": "/photographs", "data.source": "auto"})
        )
        is None
    )
