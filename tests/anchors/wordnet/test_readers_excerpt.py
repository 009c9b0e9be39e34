import pytest

from beamclip.anchors.wordnet import Excerpt, open_vocabulary
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import table_rows


@pytest.fixture(scope="module")
def excerpt():
    return Excerpt()


def test_holds_every_synset_of_the_image_data_sets_up_to_entity(excerpt):
    ids = {*tables.imagenet_1k(), *tables.imagenet_21k()} | {
        one.synset for one in open_vocabulary("lvis") if one.synset
    }
    ids |= {id for _, _, id in table_rows("classes.tsv")}
    assert ids <= set(excerpt.synset_ids()) and len(ids) > 21841
    assert all("n00001740" in excerpt.ancestors(id) for id in ids)
    assert all(excerpt.synset(id).lemmas and excerpt.synset(id).gloss for id in ids)


def test_knows_all_senses_of_their_names(excerpt):
    cranes = excerpt.senses("crane_(bird)")
    assert [one.instance for one in cranes] == [True, True, True, False, False] and cranes[
        4
    ].id == "n02012849"
    assert [one.lemmas[0] for one in excerpt.senses("mice")][:1] == ["mouse"] and len(
        excerpt.senses("mouse")
    ) == 4
    unknown = [
        one.name for one in open_vocabulary("lvis") if one.synset and not excerpt.senses(one.name)
    ]
    assert (
        len(unknown) == 11
    )  # `horse buggy`, which LVIS calls buggy.n.01: WordNet does not list it


def test_says_what_wordnet_says(excerpt, wordnet):
    for id in excerpt.synset_ids():
        assert excerpt.synset(id) == wordnet.synset(id)
        assert excerpt.information(id) == wordnet.information(id)
    for form in excerpt.forms():
        assert excerpt.senses(form) == wordnet.senses(form) != ()
    assert all(
        set(singulars) <= set(wordnet.exceptions[plural])
        for plural, singulars in excerpt.exceptions.items()
    )
