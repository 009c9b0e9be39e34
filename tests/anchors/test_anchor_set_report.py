import json

import pytest

from beamclip.anchors import AnchorSet, AnchorSetPlan, build_anchor_sets, report_of
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.similarity import likeness
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config.prompts import members_of

CLASSES = (
    ClassName("missile", "n03773504"),
    ClassName("crane", context="the bird"),
    ClassName("missile", "n04008634"),
    ClassName("qwrtz"),
    ClassName("tench", "n01440764"),
)


@pytest.fixture
def made(tower, tmp_path):
    """`made(prompt_set)`: the store and the senses of its classes."""

    def build(prompt_set, context=77):
        senses = choose_senses(CLASSES, Excerpt())
        plan = AnchorSetPlan.of(senses, prompt_set, members_of(prompt_set, {}))
        return build_anchor_sets(tower(context=context), [plan], tmp_path)[0], senses

    return build


def test_it_says_what_the_bank_is_like(made):
    store, senses = made("openai_7+synonyms")
    report = report_of(store, "mine", senses)
    assert (report.prompt_set, report.anchors, report.hash) == ("mine", 5, store.key)
    counts = [7 + len(sense.synset.lemmas if sense.synset else [sense.name]) for sense in senses]
    assert (
        report.prompts == sum(counts)
        and report.prompts_per_class == (min(counts), max(counts))
        and min(counts) < max(counts)
    )
    assert report.bare == 1  # nothing is known of qwrtz
    assert (report.shortened, report.duplicates) == (0, 0)


def test_pairs_are_named(made):
    store, senses = made("plain")
    report = report_of(store, "plain", senses)
    assert report.duplicates == 1 and report.near == 1 and report.threshold == 0.95
    assert report.nearest[0] == ("missile", "missile", 1.0) and len(report.nearest) == 10
    assert [cosine for *_, cosine in report.nearest] == sorted(
        (cosine for *_, cosine in report.nearest), reverse=True
    )
    apart, _ = made("gloss")
    assert report_of(apart, "gloss", senses).duplicates == 0


def test_sentences_that_were_shortened_are_counted(made):
    store, senses = made("gloss", context=16)
    assert (
        report_of(store, "gloss", senses).shortened
        == len(json.loads(store.file("shortened.json").read_text()))
        == 3
    )


def test_what_is_logged_is_json_with_a_few_of_the_pairs(made):
    store, senses = made("plain")
    report = report_of(store, "plain", senses)
    logged = report.summary(pairs=2)
    assert json.loads(json.dumps(logged)) == logged
    assert logged["nearest"] == [list(pair) for pair in report.nearest[:2]] and logged[
        "prompts_per_class"
    ] == [1, 1]
    assert set(logged) == set(vars(report)) and len(report.summary()["nearest"]) == 10


def test_another_threshold_counts_anew_and_leaves_the_rest(made):
    store, senses = made("plain")
    report = report_of(store, "plain", senses)
    alike = likeness(AnchorSet.open(store).embeddings, threshold=-1.0, most=3)
    other = report.with_likeness(alike, senses)
    assert (other.threshold, other.near, other.duplicates, len(other.nearest)) == (-1.0, 10, 1, 3)
    assert other.nearest == report.nearest[:3] and (other.hash, other.prompts) == (
        report.hash,
        report.prompts,
    )
