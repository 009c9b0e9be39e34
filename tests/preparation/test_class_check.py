"""Real pictures of one color each, and a CLIP that has learned the names of the colors."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny
from PIL import Image

from beamclip.config import Experiment, UserError, with_values
from beamclip.evaluation import accuracy, zero_shot_logits
from beamclip.preparation.build import prepare, prepare_all
from beamclip.preparation.class_check import _best_matching, _check, _Sample, sample_ids
from beamclip.preparation.context import PreparationContext

COLORS = sorted(tiny.COLORS)


@pytest.fixture(scope="module")
def teacher_of_colors(tmp_path_factory):
    return tiny.make_teacher(tmp_path_factory.mktemp("colors"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """240 training pictures of four colors, in folders with the colors' names."""
    return tiny.make_images(tmp_path_factory.mktemp("pictures"), train=60)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Pictures that show nothing, in folders with the colors' names."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for split, color, number in itertools.product(("train", "test"), COLORS, range(30)):
        file = folder / split / color / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    return folder


@pytest.fixture
def lettered(tmp_path):
    """The same pictures in folders A to D, whose names say nothing."""
    folder = tiny.make_images(tmp_path / "lettered", train=60)
    for split in ("train", "test"):
        for color, letter in zip(COLORS, "ABCD", strict=True):
            (folder / split / color).rename(folder / split / letter)
    return folder


@pytest.fixture
def lines(tmp_path):
    """A context, and the lines that it printed."""
    printed = []
    return PreparationContext(tmp_path / "stores", say=printed.append), printed


def settings(pictures, teacher, **data):
    values = tiny.settings(pictures, teacher)
    del values["probe"]
    # 24 of 60 pictures of each class.
    return Experiment.model_validate(
        values | {"data": values["data"] | {"val_fraction": 0.4} | data}
    )


def class_list(folder, names):
    path = folder / "names.txt"
    path.write_text("\n".join(names) + "\n")
    return str(path)


def test_right_names_pass_without_a_word(pictures, teacher_of_colors, lines):
    context, printed = lines
    assets = prepare(settings(pictures, teacher_of_colors), context)
    assert assets.facts.zero_shot_val.top1 > 90 and printed == []


def test_names_in_another_order_are_refused_before_training_images_are_encoded(
    lettered, teacher_of_colors, lines, tmp_path
):
    names = ["red", "yellow", "blue", "green"]
    experiment = settings(lettered, teacher_of_colors, class_names=class_list(tmp_path, names))
    context, _ = lines
    with pytest.raises(UserError) as error:
        prepare(experiment, context)
    message = str(error.value)
    assert message.startswith(f"the names in data.class_names {tmp_path / 'names.txt'} don't fit")
    assert "recognizes 0 % of 96 images held out of train (guessing among 4 gets 25 %)" in message
    assert "class A is blue, not red" in message and "class C is red, not blue" in message
    assert message.endswith("or set data.check_class_names=false to use them as they are")
    (ids,) = (tmp_path / "stores" / "samples").glob("*/ids.npy")
    assert len(np.load(ids)) == 96
    assert not (tmp_path / "stores" / "embeddings").exists()

    # The images that the check encoded are not encoded again, but count.
    right = with_values(experiment, {"data.class_names": class_list(tmp_path, COLORS)})
    assert prepare(right, PreparationContext(context.root)).facts.images_encoded == 144 + 40


def test_the_check_can_be_turned_off(lettered, teacher_of_colors, lines, tmp_path):
    names = class_list(tmp_path, ["red", "yellow", "blue", "green"])
    context, printed = lines
    experiment = settings(lettered, teacher_of_colors, class_names=names, check_class_names=False)
    assets = prepare(experiment, context)
    assert assets.facts.zero_shot_val.top1 < 10 and printed == []


def test_names_of_folders_that_are_better_are_named(pictures, teacher_of_colors, lines, tmp_path):
    names = class_list(tmp_path, ["alpha", "beta", "gamma", "delta"])
    experiment = settings(pictures, teacher_of_colors, class_names=names)
    context, _ = lines
    with pytest.raises(UserError, match=r"% by the images' own names \(blue, green, red, …\); le"):
        prepare(experiment, context)


def test_a_teacher_near_chance_is_a_warning_with_advice(noise, teacher_of_colors, lines):
    context, printed = lines
    prepare(settings(noise, teacher_of_colors), context)
    (warning,) = printed
    assert "hardly knows these classes by these names: with prompt set plain it" in warning
    for hint in ("anchors --explain", "mean and std", "anchors.prompt_set", "teacher.model"):
        assert hint in warning


def test_experiments_of_a_sweep_are_checked_once_and_by_each_prompt_set(
    noise, teacher_of_colors, lines
):
    context, printed = lines
    experiment = settings(noise, teacher_of_colors)
    other_prompts = with_values(experiment, {"anchors.prompt_set": "openai_7"})
    other_student = with_values(experiment, {"student.projector_width": 16})
    prepare_all({"a": experiment, "b": other_prompts, "c": other_student}, context)
    assert [line.split(":")[3].split(" it ")[0] for line in printed] == [
        " with prompt set plain",
        " with prompt set openai_7",
    ]


def test_the_sample_has_as_many_images_of_each_class_as_there_are():
    labels = np.repeat([0, 1, 2], [2000, 300, 3])
    ids = sample_ids(np.arange(1, 2303), labels)
    assert np.bincount(labels[ids]).tolist() == [255, 254, 3]
    assert (np.diff(ids) > 0).all() and 0 not in ids
    # Four of each class, of a thousand; and one of most, of five thousand.
    labels = np.tile(np.arange(1000), 10)
    assert set(np.bincount(labels[sample_ids(np.arange(10_000), labels)])) == {4}
    labels = np.tile(np.arange(5000), 2)
    assert len(sample_ids(np.arange(10_000), labels)) == 4096


def test_the_matching_is_the_best_of_all_permutations_and_is_measured_on_other_images():
    """Checked against all 120 ways to match five names."""
    random = torch.Generator().manual_seed(0)
    anchors = torch.randn(5, 8, generator=random)
    labels = torch.arange(5).repeat(12)
    # Class k looks like name 4 - k.
    embeddings = anchors[4 - labels] + 0.5 * torch.randn(60, 8, generator=random)
    sample = _Sample(None, None, tuple("vwxyz"), embeddings, anchors, labels)
    finding = _best_matching(sample, None)

    order = torch.argsort(labels, stable=True)
    fitted, measured = order[::2], order[1::2]
    probabilities = torch.softmax(100 * zero_shot_logits(embeddings, anchors), 1)
    best = max(
        itertools.permutations(range(5)),
        key=lambda names: probabilities[fitted, torch.tensor(names)[labels[fitted]]].sum(),
    )
    names = torch.tensor(best)[labels[measured]]
    logits = zero_shot_logits(embeddings[measured], anchors)
    assert finding.top1 == pytest.approx(accuracy(logits, names))
    assert best == (4, 3, 2, 1, 0) and finding.images == 30
    assert "label 0 is z, not v, label 1 is y, not w" in finding.how


def test_names_that_mean_nothing_to_the_teacher_are_a_warning_not_an_order(lines):
    """Classes are near some of such names, so a matching is better, but no order is right."""
    # Of ten classes, three are near one name each, and the others near the last one.
    anchors = torch.eye(10)
    near = torch.tensor([1, 2, 3, *[9] * 7])
    labels = torch.arange(10).repeat(50)
    experiment = Experiment.model_validate({"data": {"source": "demo"}})
    teacher = SimpleNamespace(name="small")
    sample = _Sample(
        experiment, teacher, tuple("ABCDEFGHIJ"), anchors[near[labels]], anchors, labels
    )
    assert _best_matching(sample, None).top1 == 40
    context, printed = lines
    _check(sample, context)
    assert len(printed) == 1 and "small hardly knows these classes" in printed[0]
    # One more class makes it an order.
    near[3] = 5
    sample = replace(sample, embeddings=anchors[near[labels]])
    with pytest.raises(UserError, match="50 % with the names in another order"):
        _check(sample, context)


def test_two_classes_are_warned_of_too(lines):
    """With two classes, an accuracy of guessing is too high to be doubled."""
    experiment = Experiment.model_validate({"data": {"source": "demo"}})
    anchors = torch.eye(2)
    labels = torch.arange(2).repeat(50)
    # Everything looks like the first class.
    embeddings = anchors[torch.zeros(100, dtype=torch.int64)]
    teacher = SimpleNamespace(name="small")
    context, printed = lines
    _check(_Sample(experiment, teacher, ("cat", "dog"), embeddings, anchors, labels), context)
    assert len(printed) == 1 and "it recognizes 50 % of 100 images" in printed[0]


def test_a_list_with_more_names_than_classes_is_matched_too():
    """As in a tar set whose labels are some of those of a longer list."""
    anchors = torch.eye(6)
    labels = torch.tensor([0, 1, 3] * 10)
    sample = _Sample(None, None, tuple("uvwxyz"), anchors[labels + 2], anchors, labels)
    finding = _best_matching(sample, ("a", "b", "c", "d"))
    assert finding.top1 == 100 and "class a is w, not u" in finding.how
