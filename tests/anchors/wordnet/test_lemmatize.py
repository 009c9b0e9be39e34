import pytest

from beamclip.anchors.wordnet.lemmatize import base_forms, qualifier, strip_qualifier

LISTED = {
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
IRREGULAR_PLURALS = {"axes": ("axe", "axis"), "mice": ("mouse",), "geese": ("goose",)}


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
def test_base_forms_are_the_listed_forms_of_a_name(name, forms):
    assert base_forms(name, IRREGULAR_PLURALS, LISTED.__contains__) == forms


def test_qualifiers_are_separated_from_names():
    assert (
        strip_qualifier("Bow_(decorative_ribbons)") == "bow"
        and qualifier("Bow_(decorative_ribbons)") == "decorative ribbons"
    )
    assert strip_qualifier("hot  dog") == "hot dog" and qualifier("hot dog") == ""
