import pytest

from beamclip.anchors.wordnet import VOCABULARIES, ClassName, check_classes, open_vocabulary
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.config import UserError


@pytest.mark.parametrize(
    ("name", "count"), [("imagenet-1k", 1000), ("imagenet-21k", 21841), ("lvis", 1203)]
)
def test_every_class_of_a_vocabulary_is_one_of_a_kind(name, count):
    classes = open_vocabulary(name)
    assert (
        len(classes) == len({(one.name, one.synset) for one in classes}) == count
        and name in VOCABULARIES
    )
    check_classes(classes, name)


def test_imagenet_has_the_names_of_clips_authors_in_label_order():
    classes = open_vocabulary("imagenet-1k")
    assert classes[134] == ClassName("crane bird", "n02012849") and classes[517] == ClassName(
        "construction crane", "n03126707"
    )
    assert [one.synset for one in classes if one.name == "missile"] == ["n03773504", "n04008634"]
    assert [one.synset for one in classes] == list(tables.imagenet_1k())


def test_lvis_has_a_synset_for_all_but_one():
    classes = open_vocabulary("lvis")
    assert [one.name for one in classes if one.synset is None] == ["stop sign"]
    assert ClassName("aerosol can", "n02682922") == classes[0] and "bow (weapon)" in {
        one.name for one in classes
    }


def test_a_path_is_a_class_list(tmp_path):
    (tmp_path / "lvis").write_text("crane\tn02012849\nheron\n")
    assert open_vocabulary(str(tmp_path / "lvis")) == (
        ClassName("crane", "n02012849"),
        ClassName("heron"),
    )


@pytest.mark.parametrize("name", ["imagenet_1k", "lviss", "nowhere/list.txt"])
def test_an_unknown_vocabulary_gets_a_sentence(name):
    with pytest.raises(
        UserError,
        match=f"anchors.vocabulary {name} is neither a file nor a vocabulary; (did you mean|known are)",
    ):
        open_vocabulary(name)


def test_lvis_is_what_its_annotations_say(wordnet):
    """Spot checks against LVIS's own `synset` fields: bow.n.04, mouse.n.04, pan.n.01."""
    ids = {one.name: one.synset for one in open_vocabulary("lvis")}
    for name, noun, number in (
        ("bow (weapon)", "bow", 4),
        ("mouse (computer equipment)", "mouse", 4),
        ("pan (for cooking)", "pan", 1),
    ):
        assert ids[name] == wordnet.senses(noun)[number - 1].id
