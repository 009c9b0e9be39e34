import re
import shlex
import subprocess
import sys

import pytest

from beamclip.anchors.senses import own_classes, pin_option, senses_of
from beamclip.anchors.wordnet import ClassName
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.config import AnchorsConfig, UserError, load_experiment, parse_assignments

pytestmark = pytest.mark.usefixtures("excerpt")
BIRD, MACHINE, RODENT = "n02012849", "n03126707", "n02330245"
OWN = tuple(ClassName(name) for name in ("crane", "mouse", "minibus", "sea_ice"))


@pytest.fixture
def listed(tmp_path):
    """`listed("crane\\tn02012849", …)`: a class list, as the path that a setting would have."""

    def write(*lines):
        (tmp_path / "classes.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
        return str(tmp_path / "classes.txt")

    return write


def ids(senses):
    return [sense.synset and sense.synset.id for sense in senses]


def senses(own=OWN, vocabulary="data", **anchors):
    """Of the classes that students match, and of the data's own."""
    config = AnchorsConfig(vocabulary=vocabulary, **anchors)
    return senses_of(own, config, vocabulary), senses_of(own, config)


def test_keys_of_the_source_are_senses_and_names_stay_names():
    own = own_classes(("crane", "tench", "moss"), (BIRD, "n01440764", None), None)
    assert own == (ClassName("crane", BIRD), ClassName("tench", "n01440764"), ClassName("moss"))
    found = senses_of(own, AnchorsConfig())
    assert (
        ids(found)[:2] == [BIRD, "n01440764"]
        and found[0].why == "its own WordNet id"
        and found[0].hypernym == "wading bird"
    )


def test_the_second_column_of_class_names_says_what_is_meant(listed):
    path = listed(f"crane\t{MACHINE}", "mouse\tthe one with buttons", "minibus")
    own = own_classes(("crane", "mouse", "minibus"), (None, None, None), path)
    assert own == (
        ClassName("crane", MACHINE),
        ClassName("mouse", context="the one with buttons"),
        ClassName("minibus"),
    )
    found = senses_of(own, AnchorsConfig())
    assert ids(found)[0] == MACHINE and (found[1].synset, found[1].context) == (
        None,
        "the one with buttons",
    )


def test_a_line_with_the_id_of_another_class_is_refused(listed):
    path = listed("goldfish\tn01443537", "tench\tn01440764")
    with pytest.raises(
        UserError,
        match="has n01443537 in line 1, but its folder is number 2; write the lines in label order",
    ):
        own_classes(("tench", "goldfish"), ("n01440764", "n01443537"), path)


def test_what_the_user_lists_is_stronger_than_what_the_source_knows(listed):
    path = listed(f"crane\t{MACHINE}", "fish\tthe one in the logo", "stop")
    own = own_classes(("crane", "fish", "stop"), (BIRD, "n01440764", "n02102040"), path)
    assert own == (
        ClassName("crane", MACHINE),
        ClassName("fish", context="the one in the logo"),
        ClassName("stop", "n02102040"),
    )


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["crane", f"crane\t{BIRD}"],
            "has 'crane' 2 times; say which is which: a tab and its WordNet id after each name",
        ),
        ([f"crane\t{BIRD}\tbird"], "line 1 has 3 fields"),
        (["crane\tn0201284"], "line 1 has 'n0201284', which is no WordNet id"),
    ],
)
def test_a_bad_second_column_is_a_sentence(listed, lines, says):
    with pytest.raises(UserError, match=re.escape(f"data.class_names {listed(*lines)}")) as caught:
        own_classes([line.split("\t")[0] for line in lines], [None] * len(lines), listed(*lines))
    assert says in str(caught.value)


def test_without_a_word_the_classes_decide_among_themselves():
    bird, machine = (
        senses_of([ClassName(name) for name in names], AnchorsConfig())
        for names in (("crane", "heron"), ("crane", "forklift"))
    )
    assert ids(bird)[0] == BIRD and ids(machine)[0] == MACHINE


def test_a_pin_decides_and_may_be_words():
    found, own = senses(senses={"crane": BIRD, "mouse": "of a computer"})
    assert found == own and ids(own)[0] == BIRD and own[0].why == "pinned by anchors.senses"
    assert (own[1].synset, own[1].context) == (None, "of a computer")


def test_pins_are_for_the_vocabulary_for_the_classes_or_for_both(listed):
    words = listed("crane", "Sea ice", "tractor", f"bow\t{BIRD}")
    pins = {
        "crane": BIRD,
        "tractor": "a red one",
        "minibus": "a blue one",
        "Sea-Ice": "at the pole",
    }
    found, own = senses(vocabulary=words, senses=pins)
    assert [sense.name for sense in found] == ["crane", "Sea ice", "tractor", "bow"]
    assert ids(found)[0] == ids(own)[0] == BIRD
    assert [sense.context for sense in found] == [None, "at the pole", "a red one", None]
    assert [sense.context for sense in own] == [None, None, "a blue one", "at the pole"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_pin_for_neither_is_a_sentence(listed, which):
    config = AnchorsConfig(vocabulary=listed("heron", "tractor"), senses={"cranes": BIRD})
    with pytest.raises(
        UserError, match=r"anchors.senses pins 'cranes', which is no class; did you mean crane\?"
    ) as caught:
        senses_of(OWN, config)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"anchors.senses pins 'cranes', which is no class"):
        senses_of(OWN, config, config.vocabulary)


def test_a_pin_leaves_out_a_vocabulary_in_which_the_name_is_not_one_class():
    own = (ClassName("missile"), ClassName("crane"))
    found, of_data = senses(own, "imagenet-1k", senses={"missile": "n04008634"})
    assert ids(of_data)[0] == "n04008634" and ids(found) == list(tables.imagenet_1k())
    with pytest.raises(UserError, match="pins 'missile', which 2 classes are called"):
        senses(OWN, "imagenet-1k", senses={"missile": "n04008634"})


@pytest.mark.parametrize(
    ("pins", "says"),
    [
        (
            {"crane": "n99999999"},
            r"class 'crane' \(pinned by anchors.senses\): synset n99999999 is not among",
        ),
        ({"crane": " "}, "anchors.senses has nothing for 'crane'"),
    ],
)
def test_a_bad_pin_is_a_sentence(pins, says):
    with pytest.raises(UserError, match=says):
        senses(senses=pins)


def test_strict_senses_stop_at_the_first_that_nobody_has_said():
    with pytest.raises(UserError) as caught:
        senses(strict_senses=True)
    text = str(caught.value)
    machine = f"{MACHINE} (lifts and moves heavy objects; lifting tackle is …)"
    assert text.startswith(f"class crane has 5 senses ({machine}, {BIRD} (large long-necked")
    assert (
        f"; 1 more class is ambiguous too; pin one with --set 'anchors.senses={{crane: {MACHINE}}}'"
        in text
    )  # the likeliest, no writer
    assert text.endswith("see them all with `beamclip anchors --explain`") and "\n" not in text
    with pytest.raises(UserError, match=r"class mouse has 4 senses"):
        senses(strict_senses=True, senses={"crane": BIRD})
    pinned = {"crane": BIRD, "mouse": "of a computer"}
    assert senses(strict_senses=True, senses=pinned) == senses(senses=pinned)


def test_the_line_to_copy_can_be_pasted_whatever_the_names():
    assert (
        pin_option({"crane": BIRD, "mouse": RODENT})
        == f"--set 'anchors.senses={{crane: {BIRD}, mouse: {RODENT}}}'"
    )
    pins = dict.fromkeys(
        ("bow (weapon)", "jack-o'-lantern", "a, b", "x: y", "no", "7", "crème", "{z}", "a" * 200),
        BIRD,
    )
    option, assignment = shlex.split(pin_option(pins))
    assert (
        option == "--set"
        and load_experiment("demo", parse_assignments([assignment])).anchors.senses == pins
    )


def test_what_the_data_says_is_said_too(listed):
    own = own_classes(
        ("crane", "mouse", "minibus"),
        (BIRD, None, None),
        listed("crane", f"mouse\t{RODENT}", "minibus"),
    )
    assert ids(senses(own, strict_senses=True)[1])[:2] == [BIRD, RODENT]
    known = [
        ClassName(name)
        for name in (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        )
    ]
    assert len(senses(known, strict_senses=True)[1]) == 10  # CIFAR-10


def test_strict_senses_look_at_the_vocabulary_too(listed):
    pinned = {"crane": BIRD, "mouse": RODENT}
    with pytest.raises(UserError, match="class bow has"):
        senses(vocabulary=listed("crane", "bow"), strict_senses=True, senses=pinned)


def test_a_vocabulary_need_not_be_the_data_s_classes():
    for name, count in (("imagenet-1k", 1000), ("imagenet-21k", 21841), ("lvis", 1203)):
        found, own = senses(vocabulary=name)
        assert len(found) == count and own == senses()[1]
    found, _ = senses(vocabulary="imagenet-1k")
    assert ids(found) == list(tables.imagenet_1k()) and {BIRD, MACHINE} < set(ids(found))


def test_a_file_is_a_vocabulary_and_read_anew_each_time(listed):
    path = listed("heron", f"crane\t{MACHINE}")
    assert ids(senses(vocabulary=path)[0])[1] == MACHINE
    listed("heron", f"crane\t{BIRD}", "sea_ice\tfrozen water")
    found, _ = senses(vocabulary=path)
    assert ids(found)[1] == BIRD and found[2].context == "frozen water"


def test_a_vocabulary_that_does_not_exist_is_a_sentence():
    with pytest.raises(
        UserError,
        match=r"anchors.vocabulary imagenet1k is neither a file nor a vocabulary; did you mean imagenet-1k",
    ):
        senses(vocabulary="imagenet1k")


@pytest.mark.parametrize(
    "module", ["beamclip.anchors", "beamclip.anchors.senses", "beamclip.anchors.wordnet"]
)
def test_names_and_senses_need_no_torch(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'open_clip', 'ray', 'mlflow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_senses_of_class_lists_are_chosen_without_torch():
    code = """
import sys
from beamclip.anchors.wordnet import ClassName
from beamclip.anchors.meanings import senses_of
from beamclip.config import AnchorsConfig
assert senses_of([ClassName("crane"), ClassName("flamingo")], AnchorsConfig(vocabulary="lvis"))[0].synset.id == "n02012849"
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
