import hashlib

import numpy as np
import pytest

from beamclip.config import DataConfig
from beamclip.data import DIGIT_NAMES, DemoSource, teacher_scenes
from beamclip.data.sources import demo as scenes_module
from beamclip.data.sources.demo import (
    _FORM_STARTS,
    FORMS,
    INKS,
    TEACHER_FORMS,
    _draw,
    _scans,
    draw_scenes,
)


@pytest.fixture(scope="module")
def source():
    return DemoSource(DataConfig(source="demo"))


@pytest.fixture(scope="module")
def scenes(source):
    """Pixels [N, 32, 32, 3] and labels [N] of both splits."""
    found = {}
    for split in ("train", "test"):
        items = list(source.items(split))
        found[split] = (
            np.stack([item.image for item in items]),
            np.array([item.label for item in items]),
        )
    return found


def test_the_scenes_are_the_same_everywhere(scenes):
    digest = hashlib.sha256(scenes["test"][0].tobytes()).hexdigest()
    assert digest[:16] == "111ecc84c13dc7e1", "a change of the scenes needs a new DEMO_VERSION"


def test_every_digit_and_form_is_equally_frequent(source, scenes):
    for split, (images, labels) in scenes.items():
        assert images.shape == (source.count(split), 32, 32, 3) and images.dtype == np.uint8
        assert set(np.bincount(labels * 14 + source.groups(split), minlength=140)) == {
            0,
            source.count(split) // 10 // len(FORMS[split]),
        }
    assert (
        source.names == DIGIT_NAMES
        and source.fingerprint == DemoSource(DataConfig(source="demo")).fingerprint
    )


def test_no_form_is_in_two_splits(source):
    sides = [set(TEACHER_FORMS), set(source.groups("train")), set(source.groups("test"))]
    assert set().union(*sides) == set(range(14)) and sum(map(len, sides)) == 14


def test_forms_begin_where_the_copied_list_begins():
    _, labels, _ = _scans()
    for start in _FORM_STARTS[:-1]:
        text = "".join(map(str, labels[start : start + 40]))
        assert text.startswith(("0123456789", "123456789")) and "955650" in text


def test_teacher_scenes_can_be_captioned():
    scenes = teacher_scenes(600, seed=1)
    assert scenes.images.shape == (600, 32, 32, 3)
    assert set(scenes.labels) == set(range(10)) and set(scenes.forms) == set(TEACHER_FORMS)
    assert set(scenes.colors) == set(range(len(INKS))) and scenes.color_names[0] == "red"
    assert not np.array_equal(scenes.images, teacher_scenes(600, seed=2).images)


def test_the_color_is_that_of_the_digit():
    """A scan full of ink covers nearly the whole scene.

    So most pixels have the ink's color, apart from its variation and noise.
    """
    scenes = draw_scenes(np.ones((64, 8, 8), np.float32), seed=0)
    middle = np.median(scenes.images[:, 12:20, 12:20].reshape(64, -1, 3), axis=1) / 255
    assert np.abs(middle - np.array(list(INKS.values()))[scenes.inks]).max() < 0.15


def test_a_longer_list_of_digits_begins_with_the_same_scenes():
    digits = _scans()[0]
    assert np.array_equal(
        draw_scenes(digits[:40], 7).images, draw_scenes(digits[:70], 7).images[:40]
    )


@pytest.mark.parametrize("start", [0, 1, 31, 32, 33, 69, 70, 100])
def test_scenes_can_be_drawn_from_any_number_on(start, monkeypatch):
    """Otherwise packing would draw the first scenes again for each shard."""
    digits, drawn = _scans()[0][:70], []
    whole = draw_scenes(digits, 7)
    monkeypatch.setattr(
        scenes_module, "_draw", lambda digits, rng: drawn.append(1) or _draw(digits, rng)
    )
    part = draw_scenes(digits, 7, start)
    assert np.array_equal(part.images, whole.images[start:]) and np.array_equal(
        part.inks, whole.inks[start:]
    )
    assert len(drawn) == max(0, 3 - start // 32)


@pytest.mark.slow
def test_a_linear_probe_on_pixels_does_not_solve_the_demo(scenes):
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, truth) = scenes["train"], scenes["test"]
    flat = LogisticRegression(C=1e-3, max_iter=50).fit(train.reshape(len(train), -1) / 255, labels)
    assert flat.score(test.reshape(len(test), -1) / 255, truth) < 0.25
