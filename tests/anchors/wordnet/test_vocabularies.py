import pytest

from beamclip.anchors.wordnet import VOCABULARIES, ClassName, check_classes, open_vocabulary
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.config import UserError


@pytest.mark.parametrize(
    ("name", "count"), [("imagenet-1k", 1000), ("imagenet-21k", 21841), ("lvis", 1203)]
)
def test_the_classes_of_a_vocabulary_are_distinct(name, count):
    classes = open_vocabulary(name)
    assert (
        len(classes)
        == len({(class_name.name, class_name.synset) for class_name in classes})
        == count
        and name in VOCABULARIES
    )
    check_classes(classes, name)


def test_imagenet_has_the_names_of_clips_authors_in_label_order():
    classes = open_vocabulary("imagenet-1k")
    assert classes[134] == ClassName("crane bird", "n02012849") and classes[517] == ClassName(
        "construction crane", "n03126707"
    )
    assert [class_name.synset for class_name in classes if class_name.name == "missile"] == [
        "n03773504",
        "n04008634",
    ]
    assert [class_name.synset for class_name in classes] == list(tables.imagenet_1k())


def test_lvis_has_a_synset_for_all_but_one():
    classes = open_vocabulary("lvis")
    assert [class_name.name for class_name in classes if class_name.synset is None] == ["stop sign"]
    assert ClassName("aerosol can", "n02682922") == classes[0] and "bow (weapon)" in {
        class_name.name for class_name in classes
    }


def test_a_path_is_a_class_list(tmp_path):
    (tmp_path / "lvis").write_text("crane\tn02012849\nheron\n")
    assert open_vocabulary(str(tmp_path / "lvis")) == (
        ClassName("crane", "n02012849"),
        ClassName("heron"),
    )


@pytest.mark.parametrize("name", ["imagenet_1k", "lviss", "nowhere/list.txt"])
def test_an_unknown_vocabulary_is_refused(name):
    with pytest.raises(
        UserError,
        match=f"anchors.vocabulary {name} is neither a file nor a vocabulary; "
        "(did you mean|known are)",
    ):
        open_vocabulary(name)


def test_lvis_agrees_with_its_annotations(wordnet):
    """Spot checks against LVIS's own `synset` fields: bow.n.04, mouse.n.04, pan.n.01."""
    ids = {class_name.name: class_name.synset for class_name in open_vocabulary("lvis")}
    for name, noun, number in (
        ("bow (weapon)", "bow", 4),
        ("mouse (computer equipment)", "mouse", 4),
        ("pan (for cooking)", "pan", 1),
    ):
        assert ids[name] == wordnet.senses(noun)[number - 1].id
