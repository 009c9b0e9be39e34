import dataclasses
import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.anchors import AnchorSet, anchor_set
from beamclip.anchors.truncation import truncate_texts
from beamclip.config import UserError, with_values
from beamclip.preparation.anchors import anchor_set_key, make_anchor_sets, plan_anchor_sets
from beamclip.preparation.assets import open_assets
from beamclip.preparation.build import prepare, prepare_all
from beamclip.preparation.context import PreparationContext
from beamclip.stores import open_store
from beamclip.teachers import Teacher
from beamclip.teachers.tower import images_encoded
from beamclip.training.context import Context
from beamclip.training.setup import build_run
from beamclip.training.worker import run_worker

pytestmark = [pytest.mark.usefixtures("excerpt"), pytest.mark.slow]
WORDS = (
    "crane\tn02012849",
    "heron",
    "moss",
    "tractor",
    "crane\tn03126707",
    "rose\ta flower",
    "sand",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A vocabulary of seven."""
    path = tmp_path_factory.mktemp("words") / "seven.txt"
    path.write_text("".join(f"{line}\n" for line in WORDS))
    return str(path)


@pytest.fixture
def encoded_texts(monkeypatch):
    """(the sentences that text towers encode, a list that grows with every pass)."""
    texts = []
    passes = []
    original = anchor_set.encode_texts_once
    encode = Teacher.encode_texts
    monkeypatch.setattr(
        anchor_set,
        "encode_texts_once",
        lambda *arguments: passes.append(1) or original(*arguments),
    )
    monkeypatch.setattr(
        Teacher, "encode_texts", lambda self, some: texts.extend(some) or encode(self, some)
    )
    return texts, passes


def embeddings(path):
    return AnchorSet.open(open_store(Path(path))).embeddings


def test_a_space_over_prompt_sets_and_vocabularies_needs_one_text_pass_and_no_image_pass(
    experiment, packed_only, words, encoded_texts
):
    prepare(experiment, PreparationContext(packed_only))
    for calls in encoded_texts:
        calls.clear()
    space = list(
        product(("plain", "openai_7", "hypernym", "gloss", "synonyms", "cpa"), ("data", words))
    )
    cells = {
        str(cell): with_values(
            experiment, {"anchors.prompt_set": cell[0], "anchors.vocabulary": cell[1]}
        )
        for cell in space
    }
    context = PreparationContext(packed_only)
    tokenizer = context.teacher(experiment.teacher).tokenizer
    before = images_encoded()
    made = prepare_all(cells, context)
    # The teacher's width is found by encoding one image.
    assert images_encoded() - before <= 1
    assert [assets.facts.images_encoded for assets in made.values()] == [0] * 12
    plans = {
        anchor_set_key(tower, plan, context): plan
        for cell in cells.values()
        for tower, plan in plan_anchor_sets(cell, context).all()
    }
    existing = anchor_set_key(*plan_anchor_sets(experiment, context).own, context)
    sentences = sorted(set().union(*(plan.texts for key, plan in plans.items() if key != existing)))
    truncated = truncate_texts(sentences, tokenizer)
    texts, passes = encoded_texts
    assert texts == [truncated.get(sentence, sentence) for sentence in sentences]
    assert len(passes) == 1
    assert len(list((packed_only / "anchors").glob("*/manifest.json"))) == len(plans) >= 10
    again = prepare_all(cells, PreparationContext(packed_only))
    assert len(passes) == 1 and {key: assets.teachers for key, assets in again.items()} == {
        key: assets.teachers for key, assets in made.items()
    }


def test_zero_shot_uses_the_data_s_own_classes_with_any_vocabulary(
    experiment, copied_stores, assets, words
):
    made = prepare(
        with_values(experiment, {"anchors.vocabulary": words}), PreparationContext(copied_stores)
    )
    assert (
        Path(made.classes).name == Path(assets.classes).name
        and made.classes != made.teachers[0].anchors
    )
    facts = made.facts.to_json()
    zero_shot = {key: value for key, value in assets.facts.to_json().items() if "zero_shot" in key}
    assert len(zero_shot) == 4 and zero_shot == {key: facts[key] for key in zero_shot}
    opened = open_assets(made, experiment.data)
    assert opened.classes.names == ("moss", "rose", "sand", "sea_ice")
    assert opened.teachers[0].anchors.names == tuple(line.split("\t")[0] for line in WORDS)
    report = made.facts.anchors
    # The two cranes have the same sentence.
    assert (report["anchors"], report["prompt_set"], report["duplicates"]) == (7, "plain", 1)
    json.dumps(facts)


@pytest.mark.parametrize("count", [5, 7])
def test_a_smaller_anchor_count_takes_the_first_classes_of_the_vocabulary(
    experiment, copied_stores, words, count
):
    """More anchors than the data has classes: zero-shot uses all of the data's own."""
    cell = with_values(experiment, {"anchors.vocabulary": words, "anchors.count": count})
    made = prepare(cell, PreparationContext(copied_stores))
    run = build_run(cell, made, Context())
    (anchors,) = run.train_state.objective.anchors
    assert torch.equal(anchors, embeddings(made.teachers[0].anchors)[:count])
    assert run.opened.classes.embeddings.shape == (4, 16)


@pytest.mark.parametrize(
    ("vocabulary", "available"),
    [("data", "class names of the data"), ("words", "names of anchors.vocabulary")],
)
def test_more_anchors_than_classes_are_a_user_error(
    experiment, copied_stores, words, vocabulary, available
):
    path, most = (words, 7) if vocabulary == "words" else ("data", 4)
    cell = with_values(experiment, {"anchors.vocabulary": path, "anchors.count": most + 1})
    with pytest.raises(
        UserError,
        match=rf"anchors.count {most + 1} is more than the {most} {available}.*; "
        "lower it or drop it",
    ):
        prepare(cell, PreparationContext(copied_stores))


def test_a_single_anchor_is_a_user_error(experiment, copied_stores, tmp_path):
    (tmp_path / "one.txt").write_text("crane\n")
    cell = with_values(experiment, {"anchors.vocabulary": str(tmp_path / "one.txt")})
    with pytest.raises(
        UserError,
        match=r"anchors.vocabulary .*one.txt has one name only, which all images match alike; "
        "give at least two",
    ):
        prepare(cell, PreparationContext(copied_stores))


def test_students_learn_over_a_vocabulary_of_another_size(experiment, copied_stores, words):
    cell = with_values(
        experiment,
        {"anchors.vocabulary": words, "anchors.prompt_set": "cpa", "optimizer.epochs": 3},
    )
    reports = []
    run_worker(
        cell,
        prepare(cell, PreparationContext(copied_stores)),
        Context(report=lambda metrics, checkpoint: reports.append(metrics)),
    )
    losses = [metrics["train/loss"] for metrics in reports[:3]]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[2]
    assert (
        0 <= reports[-1]["zero_shot/test_top1"] <= 100
        and reports[-1]["teacher/images_encoded"] == 0
    )


@pytest.fixture
def relative(teacher_folder, tmp_path):
    """`relative(weight)`: a CLIP with one weight of the first one's changed."""

    def make(weight):
        folder = shutil.copytree(teacher_folder, tmp_path / weight)
        weights = load_file(folder / "open_clip_model.safetensors")
        weights[weight].flatten()[0] += 0.5
        save_file(weights, folder / "open_clip_model.safetensors")
        return f"local-dir:{folder}"

    return make


def test_teachers_that_share_a_text_tower_share_their_anchors(
    experiment, copied_stores, assets, relative, encoded_texts
):
    texts, passes = encoded_texts
    others = [
        {"model": relative("visual.proj")},
        {"model": relative("visual.conv1.weight"), "prompt_set": "gloss"},
    ]
    made = prepare(
        with_values(experiment, {"teacher.others": others}), PreparationContext(copied_stores)
    )
    first, second, third = made.teachers
    assert len({teacher.views for teacher in made.teachers}) == 3
    assert (
        Path(first.anchors).name == Path(second.anchors).name == Path(assets.classes).name
        and third.anchors != first.anchors
    )
    # At most the definitions of the senses that the excerpt has.
    assert len(passes) <= 1 and len(texts) <= 4


def test_another_text_tower_has_its_own_anchors(experiment, copied_stores, relative, encoded_texts):
    other = with_values(experiment, {"teacher.others": [{"model": relative("text_projection")}]})
    made = prepare(other, PreparationContext(copied_stores))
    first, second = made.teachers
    assert first.anchors != second.anchors and made.classes == first.anchors
    assert not torch.equal(embeddings(first.anchors), embeddings(second.anchors))
    assert sorted(encoded_texts[0]) == [
        f"a photo of a {name}." for name in ("moss", "rose", "sand", "sea ice")
    ]


def test_changed_class_names_need_no_packing_and_no_teacher_pass(
    experiment, copied_stores, assets, tmp_path, monkeypatch, encoded_texts
):
    for job in (
        "beamclip.preparation.embedding_store.EmbedJob.open",
        "beamclip.data.packing.PackJob.open",
    ):
        monkeypatch.setattr(job, lambda *arguments: pytest.fail("an image was read again"))
    names = tmp_path / "names.txt"
    names.write_text("peat moss\nwild rose\nsand\tloose grains on a beach\nsea ice\n")
    values = {
        "data.class_names": str(names),
        # The weights of this teacher are random, and could fit the names better in another order.
        "data.check_class_names": False,
        "anchors.prompt_set": "gloss",
    }
    named = with_values(experiment, values)
    made = prepare(named, PreparationContext(copied_stores))
    assert [Path(path).name for path in (made.packed, made.teachers[0].views)] == [
        Path(path).name for path in (assets.packed, assets.teachers[0].views)
    ]
    assert made.facts.images_encoded == 0
    assert open_assets(made, named.data).classes.names == (
        "peat moss",
        "wild rose",
        "sand",
        "sea ice",
    )
    assert "a photo of a sand, loose grains on a beach." in encoded_texts[0]


def test_anchor_sets_are_planned_without_a_teacher(experiment, tmp_path, words, monkeypatch):
    monkeypatch.setattr(
        "beamclip.preparation.context.load_teacher",
        lambda *arguments: pytest.fail("a teacher was loaded"),
    )
    values = {
        "anchors.vocabulary": words,
        "anchors.prompt_set": "hypernym",
        "teacher.others": [{"model": "ViT-B-32", "prompt_set": "plain"}],
    }
    cell = with_values(experiment, values)
    anchor_sets = plan_anchor_sets(cell, PreparationContext(tmp_path))
    assert [(tower, plan.prompt_set, len(plan.senses)) for tower, plan in anchor_sets.all()] == [
        (cell.teacher, "hypernym", 7),
        (cell.teacher.others[0], "plain", 7),
        (cell.teacher, "hypernym", 4),
    ]
    assert anchor_sets.matched[0][1].prompts[0] == (
        ("a photo of a crane, a type of wading bird.",),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pinned_sense_changes_the_prompts(experiment, tmp_path):
    pinned = with_values(
        experiment,
        {"anchors.senses": {"sea_ice": "frozen sea water"}, "anchors.prompt_set": "gloss"},
    )
    assert plan_anchor_sets(pinned, PreparationContext(tmp_path)).own[1].prompts[3] == (
        ("a photo of a sea ice, frozen sea water.",),
    )


def test_prompt_sets_with_the_same_sentences_share_a_store(experiment, copied_stores, assets):
    mine = {"anchors.custom": {"mine": {"names": ["{name}"]}}, "anchors.prompt_set": "mine"}
    made = prepare(with_values(experiment, mine), PreparationContext(copied_stores))
    assert Path(made.teachers[0].anchors).name == Path(assets.teachers[0].anchors).name
    assert (made.facts.anchors["prompt_set"], assets.facts.anchors["prompt_set"]) == (
        "mine",
        "plain",
    )


def test_anchor_stores_are_found_by_tower_and_sentences(experiment, copied_stores, words):
    context = PreparationContext(copied_stores)
    cells = [
        with_values(experiment, {"anchors.vocabulary": words, "anchors.count": count})
        for count in (2, 3)
    ]
    anchor_sets = [plan_anchor_sets(cell, context) for cell in cells]
    stores = make_anchor_sets(anchor_sets, context)
    assert len(stores) == 2 and len(list((copied_stores / "anchors").glob("*/manifest.json"))) >= 2
    for of_cell in anchor_sets:
        for tower, plan in of_cell.all():
            assert stores[anchor_set_key(tower, plan, context)].manifest["names"] == [
                sense.name for sense in plan.senses
            ]
    renamed = dataclasses.replace(anchor_sets[0].own[1], prompt_set="other")
    assert anchor_set_key(anchor_sets[0].own[0], renamed, context) == anchor_set_key(
        *anchor_sets[0].own, context
    )
