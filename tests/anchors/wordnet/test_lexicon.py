import pytest

from beamclip.anchors.wordnet.lexicon import base_forms, remark, without_remark

KNOWN = {
    "crane",
    "golf_ball",
    "axe",
    "axis",
    "bow_tie",
    "t-shirt",
    "mouse",
    "white_mouse",
    "glass",
    "glasses",
    "box",
    "church",
    "fireman",
    "fly",
    "pug-dog",
}
EXCEPTIONS = {"axes": ("axe", "axis"), "mice": ("mouse",), "geese": ("goose",)}


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("crane", ("crane",)),
        ("Crane", ("crane",)),
        ("crane_(bird)", ("crane",)),
        ("crane (bird) of sorts", ("crane",)),
        ("Golf  balls", ("golf_ball",)),
        ("bow-tie", ("bow_tie",)),
        ("T_shirt", ("t-shirt",)),
        ("pug dog", ("pug-dog",)),
        ("gl-ass", ("glass",)),
        ("axes", ("axe", "axis")),
        ("white mice", ("white_mouse",)),
        ("glasses", ("glasses", "glass")),
        ("glass", ("glass",)),
        ("box, wooden box", ("box",)),
        ("bow tie, necktie", ("bow_tie",)),
        ("nothing, box", ()),
        ("boxes", ("box",)),
        ("churches", ("church",)),
        ("firemen", ("fireman",)),
        ("flies", ("fly",)),
        ("geese", ()),
        ("spectral", ()),
        ("(bird)", ()),
        ("", ()),
    ],
)
def test_forms_under_which_a_name_is_listed(name, forms):
    assert base_forms(name, EXCEPTIONS, KNOWN.__contains__) == forms


def test_remarks_are_told_from_names():
    assert (
        without_remark("Bow_(decorative_ribbons)") == "bow"
        and remark("Bow_(decorative_ribbons)") == "decorative ribbons"
    )
    assert without_remark("hot  dog") == "hot dog" and remark("hot dog") == ""
