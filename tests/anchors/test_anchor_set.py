import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import (
    AnchorSet,
    AnchorSetPlan,
    anchor_report,
    build_anchor_sets,
    ensemble,
    find_anchor_set,
    truncated_prompts,
)
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.similarity import measure_similarity
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config import UserError
from beamclip.config.anchors import members_of
from beamclip.stores import StoreDamaged

LEXICON = Excerpt()
CRANE, CAB = ClassName("crane", "n02012849"), ClassName("cab", "n02930766")
CLASSES = (CRANE, CAB, ClassName("sea_ice", context="frozen water"), ClassName("qwrtz"))


def plan(prompt_set, classes=CLASSES, name=None):
    return AnchorSetPlan.of(
        choose_senses(classes, LEXICON), name or prompt_set, members_of(prompt_set, {})
    )


def build(teacher, root, *plans, **options):
    return build_anchor_sets(teacher, plans, root, **options)


def slow_anchor(embed, of_class):
    """CLIP's ensembling over prompts, then the mean over members, one number at a time."""

    def unit(vector):
        length = sum(number**2 for number in vector) ** 0.5
        return [number / length for number in vector]

    def mean(vectors):
        return [sum(numbers) / len(vectors) for numbers in zip(*vectors, strict=True)]

    return unit(
        mean(
            [unit(mean([embed(text).double().tolist() for text in member])) for member in of_class]
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompt_set", ["plain", "openai_7", "synonyms", "cpa", "ensemble", "openai_80+synonyms"]
)
def test_an_anchor_is_the_mean_of_its_members_means(tower, tmp_path, prompt_set):
    (store,) = build(tower(), tmp_path, plan(prompt_set))
    anchor_set = AnchorSet.open(store)
    assert anchor_set.names == ("crane", "cab", "sea_ice", "qwrtz") and anchor_set.key == store.key
    assert anchor_set.embeddings.dtype == torch.float32 and anchor_set.embeddings.shape == (4, 8)
    for anchor, of_class in zip(anchor_set.embeddings, plan(prompt_set).prompts, strict=True):
        torch.testing.assert_close(
            anchor, torch.tensor(slow_anchor(tower().embed, of_class)), rtol=1e-5, atol=1e-6
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
    )  # normalized before it is averaged


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
        [list(member) for member in of_class] for of_class in plan("cpa+synonyms").prompts
    ]


def test_many_anchor_sets_encode_each_sentence_once(tower, tmp_path):
    teacher, names = tower(), ("plain", "openai_7", "hypernym", "synonyms", "cpa", "ensemble")
    plans = [plan(name) for name in names] + [plan("plain", CLASSES[:2]), plan("plain")]
    stores = build(teacher, tmp_path, *plans)
    assert (
        sorted(teacher.encoded)
        == sorted(set(teacher.encoded))
        == sorted(set().union(*(planned.texts for planned in plans)))
    )
    assert [store.manifest["prompt_set"] for store in stores] == [*names, "plain", "plain"]
    assert len({store.key for store in stores}) == 7 and stores[0].key == stores[-1].key
    alone = build(tower(), tmp_path / "alone", plan("ensemble"))[0]
    assert np.array_equal(
        np.load(alone.file("anchors.npy")), np.load(stores[5].file("anchors.npy"))
    )


def test_existing_anchor_sets_encode_nothing_and_new_ones_only_their_own_sentences(tower, tmp_path):
    before = build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    again = tower()
    assert [store.key for store in build(again, tmp_path, plan("openai_7"), plan("plain"))] == [
        before[1].key,
        before[0].key,
    ]
    assert again.encoded == []
    build(again, tmp_path, plan("plain"), plan("gloss"))
    assert sorted(again.encoded) == sorted(plan("gloss").texts)
    assert (
        find_anchor_set(again, plan("gloss"), tmp_path) is not None
        and find_anchor_set(again, plan("cpa"), tmp_path) is None
    )


@pytest.mark.slow
def test_the_key_depends_on_the_tower_the_names_and_the_sentences(tower, tmp_path):
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


def test_the_key_depends_on_nothing_else(tower):
    """The key ignores the prompt set's name, and senses that do not change the sentences."""
    parts = plan("plain").parts(tower())
    assert plan("plain", name="mine").parts(tower()) == parts
    assert plan("plain", (ClassName("crane", "n03126707"), *CLASSES[1:])).parts(tower()) == parts
    assert plan("hypernym", (ClassName("qwrtz"),)).parts(tower()) == plan(
        "plain", (ClassName("qwrtz"),)
    ).parts(tower())


@pytest.mark.slow
def test_a_damaged_file_is_named_and_rebuilt_only_with_repair(tower, tmp_path):
    plain, seven = build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    whole = plain.file("anchors.npy").read_bytes()
    plain.file("anchors.npy").write_bytes(whole[:-1])
    with pytest.raises(
        StoreDamaged, match=r"anchors.npy has 255 bytes instead of 256; run again with --repair"
    ):
        build(tower(), tmp_path, plan("plain"), plan("openai_7"))
    teacher = tower()
    repaired = build(teacher, tmp_path, plan("plain"), plan("openai_7"), repair=True)
    assert repaired[0].file("anchors.npy").read_bytes() == whole and [
        store.key for store in repaired
    ] == [plain.key, seven.key]
    assert sorted(teacher.encoded) == sorted(plan("plain").texts)
    assert find_anchor_set(tower(), plan("plain"), tmp_path) is not None


def test_similarity_is_measured_when_an_anchor_set_is_built(tower, tmp_path):
    twins = (ClassName("missile", "n03773504"), CRANE, ClassName("missile", "n04008634"))
    (store,) = build(tower(), tmp_path, plan("plain", twins))
    similarity = measure_similarity(AnchorSet.open(store).embeddings)
    assert store.manifest["likeness"] == json.loads(json.dumps(vars(similarity)))
    assert similarity.duplicates == 1 and similarity.nearest[0] == (0, 2, 1.0)


def test_truncated_sentences_are_stored_with_the_part_that_was_read(tower, tmp_path):
    teacher = tower(context=16)
    plain, gloss = build(teacher, tmp_path, plan("plain", CLASSES[:2]), plan("gloss", CLASSES[:2]))
    assert truncated_prompts(plain) == {} and plain.manifest["shortened"] == 0
    assert truncated_prompts(gloss) == {
        "a photo of a crane, large long-necked wading bird of marshes and plains "
        "in many parts of the world.": ("a photo of a crane, large long-necked wading."),
        "a photo of a cab, a car driven by a person whose job is to take passengers "
        "where they want to go in exchange for money.": (
            "a photo of a cab, a car driven by a person whose."
        ),
    }
    assert gloss.manifest["shortened"] == 2
    torch.testing.assert_close(
        AnchorSet.open(gloss).embeddings[1],
        teacher.embed("a photo of a cab, a car driven by a person whose."),
    )


@pytest.mark.parametrize("name", ["", "_"])
def test_an_empty_name_is_refused(name):
    with pytest.raises(UserError, match="class 1 has an empty name"):
        plan("plain", (CRANE, ClassName(name)))


def test_a_real_text_tower_s_anchors_are_its_own_zero_shot_classifier(teacher, tmp_path):
    (store,) = build(teacher, tmp_path, plan("openai_7"))
    with torch.inference_mode():
        tokens = teacher.tokenizer(list(plan("openai_7").prompts[2][0]))
        mean = F.normalize(teacher.model.encode_text(tokens), dim=-1).mean(0)
    torch.testing.assert_close(AnchorSet.open(store).embeddings[2], F.normalize(mean, dim=-1))


REPORTED_CLASSES = (
    ClassName("missile", "n03773504"),
    ClassName("crane", context="the bird"),
    ClassName("missile", "n04008634"),
    ClassName("qwrtz"),
    ClassName("tench", "n01440764"),
)


@pytest.fixture
def build_reported(tower, tmp_path):
    """Function: prompt set -> the store and the senses of its classes."""

    def call(prompt_set, context=77):
        senses = choose_senses(REPORTED_CLASSES, LEXICON)
        plan = AnchorSetPlan.of(senses, prompt_set, members_of(prompt_set, {}))
        return build_anchor_sets(tower(context=context), [plan], tmp_path)[0], senses

    return call


def test_a_report_counts_prompts_and_bare_names(build_reported):
    store, senses = build_reported("openai_7+synonyms")
    report = anchor_report(store, "mine", senses)
    assert (report.prompt_set, report.anchors, report.hash) == ("mine", 5, store.key)
    counts = [7 + len(sense.synset.lemmas if sense.synset else [sense.name]) for sense in senses]
    assert (
        report.prompts == sum(counts)
        and report.prompts_per_class == (min(counts), max(counts))
        and min(counts) < max(counts)
    )
    assert report.bare == 1  # WordNet does not know qwrtz
    assert (report.shortened, report.duplicates) == (0, 0)


def test_a_report_names_the_nearest_pairs(build_reported):
    store, senses = build_reported("plain")
    report = anchor_report(store, "plain", senses)
    assert report.duplicates == 1 and report.near == 1 and report.threshold == 0.95
    assert report.nearest[0] == ("missile", "missile", 1.0) and len(report.nearest) == 10
    assert [cosine for *_, cosine in report.nearest] == sorted(
        (cosine for *_, cosine in report.nearest), reverse=True
    )
    apart, _ = build_reported("gloss")
    assert anchor_report(apart, "gloss", senses).duplicates == 0


def test_a_report_counts_truncated_sentences(build_reported):
    store, senses = build_reported("gloss", context=16)
    assert (
        anchor_report(store, "gloss", senses).shortened
        == len(json.loads(store.file("shortened.json").read_text()))
        == 3
    )


def test_a_summary_is_json_with_some_of_the_pairs(build_reported):
    store, senses = build_reported("plain")
    report = anchor_report(store, "plain", senses)
    logged = report.summary(pairs=2)
    assert json.loads(json.dumps(logged)) == logged
    assert logged["nearest"] == [list(pair) for pair in report.nearest[:2]] and logged[
        "prompts_per_class"
    ] == [1, 1]
    assert set(logged) == set(vars(report)) and len(report.summary()["nearest"]) == 10


def test_another_threshold_changes_the_pairs_only(build_reported):
    store, senses = build_reported("plain")
    report = anchor_report(store, "plain", senses)
    similarity = measure_similarity(AnchorSet.open(store).embeddings, threshold=-1.0, max_pairs=3)
    other = report.with_similarity(similarity, senses)
    assert (other.threshold, other.near, other.duplicates, len(other.nearest)) == (-1.0, 10, 1, 3)
    assert other.nearest == report.nearest[:3] and (other.hash, other.prompts) == (
        report.hash,
        report.prompts,
    )
