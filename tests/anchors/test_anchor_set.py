import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import (
    AnchorSet,
    AnchorSetPlan,
    build_anchor_sets,
    ensemble,
    existing_anchor_set,
    shortened_prompts,
)
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.similarity import likeness
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config import UserError
from beamclip.config.prompts import members_of
from beamclip.stores import StoreDamaged

LEXICON = Excerpt()
CRANE, CAB = ClassName("crane", "n02012849"), ClassName("cab", "n02930766")
CLASSES = (CRANE, CAB, ClassName("sea_ice", context="frozen water"), ClassName("qwrtz"))


def plan(prompt_set, classes=CLASSES, called=None):
    return AnchorSetPlan.of(
        choose_senses(classes, LEXICON), called or prompt_set, members_of(prompt_set, {})
    )


def build(teacher, root, *plans, **options):
    return build_anchor_sets(teacher, plans, root, **options)


def slow_anchor(said, of_class):
    """CLIP's ensembling, then the same over members: written out, one number at a time."""

    def unit(vector):
        length = sum(number**2 for number in vector) ** 0.5
        return [number / length for number in vector]

    def mean(vectors):
        return [sum(numbers) / len(vectors) for numbers in zip(*vectors, strict=True)]

    return unit(
        mean([unit(mean([said(text).double().tolist() for text in member])) for member in of_class])
    )


@pytest.mark.parametrize(
    "prompt_set", ["plain", "openai_7", "synonyms", "cpa", "ensemble", "openai_80+synonyms"]
)
def test_an_anchor_is_the_mean_of_its_members_means(tower, tmp_path, prompt_set):
    (store,) = build(tower(), tmp_path, plan(prompt_set))
    bank = AnchorSet.open(store)
    assert bank.names == ("crane", "cab", "sea_ice", "qwrtz") and bank.key == store.key
    assert bank.embeddings.dtype == torch.float32 and bank.embeddings.shape == (4, 8)
    for anchor, of_class in zip(bank.embeddings, plan(prompt_set).prompts, strict=True):
        torch.testing.assert_close(
            anchor, torch.tensor(slow_anchor(tower().said, of_class)), rtol=1e-5, atol=1e-6
        )


def test_a_member_counts_once_however_many_prompts_it_has():
    x, y, z = torch.eye(3)
    half = 0.5**0.5
    torch.testing.assert_close(ensemble([torch.stack([x, y])]), torch.tensor([half, half, 0]))
    torch.testing.assert_close(
        ensemble([torch.stack([x] * 80), y[None]]), torch.tensor([half, half, 0])
    )
    torch.testing.assert_close(
        ensemble([torch.stack([x, y]), z[None]]), torch.tensor([0.5, 0.5, half])
    )  # normalised before it is averaged


def test_classes_may_have_different_numbers_of_prompts(tower, tmp_path):
    (store,) = build(tower(), tmp_path, plan("cpa+synonyms"))
    facts = store.manifest
    assert [[len(member) for member in of_class] for of_class in plan("cpa+synonyms").prompts] == [
        [14, 1],
        [14, 4],
        [7, 1],
        [7, 1],
    ]
    assert (facts["prompts"], facts["prompts_per_class"], facts["width"], facts["prompt_set"]) == (
        49,
        [8, 18],
        8,
        "cpa+synonyms",
    )
    assert json.loads(store.file("prompts.json").read_text()) == [
        [list(m) for m in one] for one in plan("cpa+synonyms").prompts
    ]


def test_many_banks_encode_each_sentence_once(tower, tmp_path):
    teacher, names = tower(), ("plain", "openai_7", "hypernym", "synonyms", "cpa", "ensemble")
    plans = [plan(name) for name in names] + [plan("plain", CLASSES[:2]), plan("plain")]
    stores = build(teacher, tmp_path, *plans)
    assert (
        sorted(teacher.asked)
        == sorted(set(teacher.asked))
        == sorted(set().union(*(one.texts for one in plans)))
    )
    assert [store.manifest["prompt_set"] for store in stores] == [*names, "plain", "plain"]
    assert len({store.key for store in stores}) == 7 and stores[0].key == stores[-1].key
    alone = build(tower(), tmp_path / "alone", plan("ensemble"))[0]
    assert np.array_equal(
        np.load(alone.file("anchors.npy")), np.load(stores[5].file("anchors.npy"))
    )


def test_what_is_there_encodes_nothing_and_only_the_new_ones_are_asked_for(tower, tmp_path):
    before = build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    again = tower()
    assert [store.key for store in build(again, tmp_path, plan("openai_7"), plan("plain"))] == [
        before[1].key,
        before[0].key,
    ]
    assert again.asked == []
    build(again, tmp_path, plan("plain"), plan("gloss"))
    assert sorted(again.asked) == sorted(plan("gloss").texts)
    assert (
        existing_anchor_set(again, plan("gloss"), tmp_path) is not None
        and existing_anchor_set(again, plan("cpa"), tmp_path) is None
    )


def test_the_key_is_the_tower_s_the_names_and_the_sentences(tower, tmp_path):
    others = [
        plan("openai_7"),
        plan("plain", CLASSES[:3]),
        plan("plain", CLASSES[::-1]),
        plan("plain", (ClassName("Crane"), *CLASSES[1:])),
    ]
    stores = build(tower(), tmp_path, plan("plain"), *others) + build(
        tower("b"), tmp_path, plan("plain")
    )
    assert len({store.key for store in stores}) == 6
    spelled = plan("plain", (*CLASSES[:2], ClassName("sea ice"), *CLASSES[3:]))
    assert spelled.prompts == plan("plain").prompts and spelled.parts(tower()) != plan(
        "plain"
    ).parts(tower())  # another name to report
    bird = plan("hypernym", CLASSES[:2])
    machine = plan("hypernym", (ClassName("crane", "n03126707"), CAB))
    assert bird.parts(tower()) != machine.parts(tower())


def test_the_key_is_nothing_else(tower):
    """Not what a prompt set is called, nor how a sense was found where it makes no other sentence."""
    parts = plan("plain").parts(tower())
    assert plan("plain", called="mine").parts(tower()) == parts
    assert plan("plain", (ClassName("crane", "n03126707"), *CLASSES[1:])).parts(tower()) == parts
    assert plan("hypernym", (ClassName("qwrtz"),)).parts(tower()) == plan(
        "plain", (ClassName("qwrtz"),)
    ).parts(tower())


def test_what_is_damaged_is_named_and_made_again_only_with_repair(tower, tmp_path):
    plain, seven = build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    whole = plain.file("anchors.npy").read_bytes()
    plain.file("anchors.npy").write_bytes(whole[:-1])
    with pytest.raises(
        StoreDamaged, match=r"anchors.npy has 255 bytes instead of 256; run again with --repair"
    ):
        build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    teacher = tower()
    mended = build(teacher, tmp_path, plan("plain"), plan("openai_7"), repair=True)
    assert mended[0].file("anchors.npy").read_bytes() == whole and [
        store.key for store in mended
    ] == [plain.key, seven.key]
    assert sorted(teacher.asked) == sorted(plan("plain").texts)
    assert existing_anchor_set(tower(), plan("plain"), tmp_path) is not None


def test_how_alike_they_are_is_found_out_when_they_are_made(tower, tmp_path):
    twins = (ClassName("missile", "n03773504"), CRANE, ClassName("missile", "n04008634"))
    (store,) = build(tower(), tmp_path, plan("plain", twins))
    found = likeness(AnchorSet.open(store).embeddings)
    assert store.manifest["likeness"] == json.loads(json.dumps(vars(found)))
    assert found.duplicates == 1 and found.nearest[0] == (0, 2, 1.0)


def test_sentences_that_did_not_fit_are_kept_with_what_was_read(tower, tmp_path):
    teacher = tower(context=16)
    plain, gloss = build(teacher, tmp_path, plan("plain", CLASSES[:2]), plan("gloss", CLASSES[:2]))
    assert shortened_prompts(plain) == {} and plain.manifest["shortened"] == 0
    assert shortened_prompts(gloss) == {
        "a photo of a crane, large long-necked wading bird of marshes and plains in many parts of the world.": (
            "a photo of a crane, large long-necked wading."
        ),
        "a photo of a cab, a car driven by a person whose job is to take passengers where they want to go in exchange for money.": (
            "a photo of a cab, a car driven by a person whose."
        ),
    }
    assert gloss.manifest["shortened"] == 2
    torch.testing.assert_close(
        AnchorSet.open(gloss).embeddings[1],
        teacher.said("a photo of a cab, a car driven by a person whose."),
    )


@pytest.mark.parametrize("name", ["", "_"])
def test_an_empty_name_is_a_sentence(name):
    with pytest.raises(UserError, match="class 1 has an empty name"):
        plan("plain", (CRANE, ClassName(name)))


def test_a_real_text_tower_s_anchors_are_its_own_zero_shot_classifier(teacher, tmp_path):
    (store,) = build(teacher, tmp_path, plan("openai_7"))
    with torch.inference_mode():
        tokens = teacher.tokenizer(list(plan("openai_7").prompts[2][0]))
        mean = F.normalize(teacher.model.encode_text(tokens), dim=-1).mean(0)
    torch.testing.assert_close(AnchorSet.open(store).embeddings[2], F.normalize(mean, dim=-1))
