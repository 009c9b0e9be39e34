from math import log

import pytest

from beamclip.anchors.wordnet import Excerpt
from beamclip.anchors.wordnet.lexicon import NOUN_SYNSETS
from beamclip.config import UserError


def test_senses_come_most_frequent_first(small, ids):
    assert [synset.id for synset in small.senses("Cranes")] == [
        ids["crane-poet"],
        ids["crane-machine"],
        ids["crane-bird"],
    ]
    assert small.senses("gryphon") == ()


def test_a_plural_of_two_words_has_the_senses_of_both(small, ids):
    assert [synset.id for synset in small.senses("axes")] == [ids["axe"], ids["axis"]]


def test_ancestors_go_up_to_entity_and_include_the_synset(small, ids):
    assert small.ancestors(ids["crane-bird"]) == {
        ids[key] for key in ("crane-bird", "wader", "bird", "physical", "entity")
    }
    assert small.ancestors(ids["crane-poet"]) == {
        ids[key] for key in ("crane-poet", "poet", "physical", "entity")
    }


def test_information_grows_downwards(small, ids):
    chain = [
        small.information_content(ids[key]) for key in ("entity", "physical", "wader", "crane-bird")
    ]
    assert chain == sorted(chain) and chain[-1] == pytest.approx(log(NOUN_SYNSETS))
    assert small.information_content(ids["wader"]) == pytest.approx(
        log(NOUN_SYNSETS / 3)
    )  # itself, crane and heron


@pytest.mark.parametrize("id", ["n99999999", "n00000001", "crane", ""])
def test_an_id_that_does_not_exist_is_refused(small, id):
    with pytest.raises(UserError, match=f"synset {id} does not exist in WordNet 3.0"):
        small.synset(id)


def test_the_excerpt_says_how_to_get_the_rest():
    with pytest.raises(
        UserError,
        match=r"n99999999 is not among the synsets that come with beamclip; "
        "check the id, or install WordNet 3.0",
    ):
        Excerpt().synset("n99999999")
