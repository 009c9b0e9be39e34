import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from beamclip.anchors.senses import (
    add_image_evidence,
    ambiguous_senses,
    choose_senses,
    dataset_classes,
    pin_option,
    resolve_senses,
)
from beamclip.anchors.wordnet import ClassName, Excerpt, open_vocabulary
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import read_table
from beamclip.config import AnchorsConfig, UserError, load_experiment, parse_assignments


@pytest.fixture(scope="module")
def lexicon():
    """The excerpt: nothing needs to be installed, and the choices are the same everywhere."""
    return Excerpt()


def choose(lexicon, *names, **pins):
    return choose_senses(
        [name if isinstance(name, ClassName) else ClassName(name) for name in names], lexicon, pins
    )


def test_the_other_classes_decide(lexicon):
    bird = choose(lexicon, "crane", "flamingo", "pelican", "albatross", "bittern")[0]
    machine = choose(lexicon, "crane", "forklift", "tow truck", "tractor", "snowplow")[0]
    assert bird.synset.id == "n02012849" and bird.hypernym == "wading bird"
    assert machine.synset.id == "n03126707" and machine.hypernym == "lifting device"
    assert re.fullmatch(r"fits the other classes best \(0\.\d\d, next 0\.\d\d\)", bird.why)


def test_every_considered_sense_has_a_score_and_named_things_have_0(lexicon):
    crane = choose(lexicon, "crane", "flamingo")[0]
    assert len(crane.considered) == len(crane.scores) == 5
    assert [score > 0 for score in crane.scores] == [
        not synset.instance for synset in crane.considered
    ]
    assert (
        sum(crane.scores) == pytest.approx(1)
        and crane.considered[int(np.argmax(crane.scores))] == crane.synset
    )


def test_a_pin_overrides_everything(lexicon):
    named = ClassName("crane", synset="n03126707")
    crane = choose(lexicon, named, "heron", crane="n02012849")[0]
    assert (
        crane.synset.id == "n02012849"
        and crane.why == "pinned by anchors.senses"
        and crane.scores == ()
        and len(crane.considered) == 5
    )
    words = choose(lexicon, named, "heron", crane="a machine that lifts")[0]
    assert (
        words.context == "a machine that lifts" and words.synset is None and words.hypernym is None
    )


def test_a_given_sense_overrides_a_known_data_set(lexicon):
    names = [spelling for of, spelling, _ in read_table("classes.tsv") if of == "CIFAR-10"]
    senses = choose(
        lexicon,
        ClassName(names[0], context="an old plane"),
        *names[1:9],
        ClassName("truck", synset="n03490119"),
    )
    assert senses[0].context == "an old plane" and senses[0].why == "the context given with it"
    assert senses[9].synset.id == "n03490119" and senses[9].why == "its own WordNet id"
    assert (
        senses[3].why == "known for CIFAR-10"
        and senses[3].synset.id == "n02121620"
        and not ambiguous_senses(senses)
    )


def test_names_with_one_sense_or_none(lexicon):
    heron, thing, bus = choose(lexicon, "flamingo bird", "qwrtz", "minibus")
    assert bus.why == "its only sense" and bus.synset.lemmas[0] == "minibus" and bus.scores == ()
    assert (
        heron.synset is thing.synset is None and heron.why == "not a noun in the excerpt of WordNet"
    )


class OnlyNames(Excerpt):
    """A lexicon that knows persons, places and stars alone."""

    def senses(self, name):
        return tuple(synset for synset in super().senses(name) if synset.instance)


def test_a_named_thing_is_chosen_where_there_is_nothing_else(lexicon):
    assert choose(OnlyNames(), "crane")[0].synset.instance
    senses = {form: lexicon.senses(form) for form in lexicon.forms()}
    with_named_thing = next(
        form
        for form, synsets in senses.items()
        if len(synsets) > 1 and sum(not synset.instance for synset in synsets) == 1
    )
    chosen = choose(lexicon, with_named_thing)[0]
    assert (
        chosen.why == "its only sense that is not a name"
        and not chosen.synset.instance
        and len(chosen.considered) > 1
    )


def test_the_reason_says_that_a_class_had_no_others_to_compare(lexicon):
    mouse = choose(lexicon, "mouse")[0]
    assert (
        mouse.why.startswith(
            "the most probable on its own; there is no other class to compare with"
        )
        and len(ambiguous_senses([mouse])) == 1
    )


def test_ambiguous_senses_are_those_chosen_among_several(lexicon):
    classes = ["crane", "heron bird", "minibus", ClassName("mouse", synset="n02330245"), "bow"]
    assert [sense.name for sense in ambiguous_senses(choose(lexicon, *classes))] == ["crane", "bow"]
    assert [
        sense.name for sense in ambiguous_senses(choose(lexicon, *classes, bow="a weapon"))
    ] == ["crane"]


@pytest.mark.parametrize("spelling", ["Golf_ball", "golf-ball", "golf ball"])
def test_case_and_hyphens_of_a_pinned_name_do_not_matter(lexicon, spelling):
    assert (
        choose_senses([ClassName("golf ball")], lexicon, {spelling: "n03445777"})[0].why
        == "pinned by anchors.senses"
    )


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (
            {"cranes": "n02012849"},
            "anchors.senses pins 'cranes', which is not a class; did you mean crane?",
        ),
        (
            {"crane": "n99999999"},
            "class 'crane' (pinned by anchors.senses): synset n99999999 is not among the synsets",
        ),
        (
            {"crane": "n99999999"},
            "; crane may be n10914447 (United States writer (1871-1900)) or n10914331",
        ),
        ({"crane": " "}, "anchors.senses is empty for 'crane'; give a WordNet id"),
        (
            {"missile": "n04008634"},
            "anchors.senses pins 'missile', but 2 classes have that name; drop the pin",
        ),
    ],
)
def test_a_bad_pin_is_refused(lexicon, pins, message):
    classes = [
        ClassName("crane"),
        ClassName("missile", "n03773504"),
        ClassName("missile", "n04008634"),
    ]
    with pytest.raises(UserError, match=re.escape(message)):
        choose_senses(classes, lexicon, pins)


@pytest.mark.parametrize(
    "pin",
    [
        "n2012849",
        "N02012849",
        "2012849",
        "n020128499",
        "02012849-n",
        "crane.n.05",
        "wn30:n02012849",
    ],
)
def test_a_malformed_id_is_not_taken_for_free_text(lexicon, pin):
    with pytest.raises(
        UserError,
        match=r"class 'crane' \(pinned by anchors.senses\): "
        rf"'{re.escape(pin)}' is not a WordNet id",
    ):
        choose_senses([ClassName("crane")], lexicon, {"crane": pin})


def test_a_class_is_not_a_type_of_itself(lexicon):
    (newt,) = choose(
        lexicon, ClassName("newt", synset="n01630670")
    )  # the common newt, which WordNet has below newts
    assert (
        lexicon.synset(newt.synset.parents[0]).lemmas[0] == "newt" and newt.hypernym == "salamander"
    )


def test_plurals_with_their_own_sense_also_have_the_senses_of_the_singular(lexicon):
    glasses = choose(lexicon, "glasses", "wineglass", "beer mug", "coffee mug")[0]
    assert glasses.scores and "glass" in glasses.synset.lemmas


def test_an_id_that_does_not_exist_is_refused(lexicon):
    with pytest.raises(
        UserError, match=r"class 'tench' \(its own WordNet id\): synset n99999999 is not among"
    ):
        choose(lexicon, ClassName("tench", synset="n99999999"))


def test_images_propose_another_sense(lexicon):
    mouse = choose(lexicon, "mouse", "hamster", "porcupine", "beaver")[0]
    assert mouse.synset.id == "n02330245" and mouse.hypernym == "rodent"
    by_images = add_image_evidence(mouse, [0.10, 0.08, 0.05, 0.30], lexicon)
    assert (
        by_images.synset.id == "n03793489"
        and by_images.hypernym == "electronic device"
        and by_images.considered == mouse.considered
    )
    assert by_images.why.startswith(
        "fits the other classes and the images best ("
    ) and by_images.why.endswith("; without images it was n02330245")


def test_images_and_classes_count_together(lexicon):
    mouse = choose(lexicon, "mouse", "hamster", "porcupine", "beaver")[0]
    cosines = np.array([0.10, 0.08, 0.05, 0.12])
    weights = mouse.scores * np.exp(cosines / 0.02)
    both = add_image_evidence(mouse, cosines, lexicon, temperature=0.02)
    assert (
        both.scores == pytest.approx(weights / weights.sum())
        and both.synset == mouse.synset
        and "without" not in both.why
    )
    assert (
        add_image_evidence(mouse, cosines, lexicon, temperature=0.001).synset.id == "n03793489"
    )  # only the images count


def test_images_never_propose_a_person_or_override_a_given_sense(lexicon):
    crane, flamingo = choose(lexicon, "crane", ClassName("flamingo", synset="n02007558"))
    assert add_image_evidence(crane, [0.9, 0.8, 0.7, 0.1, 0.5], lexicon).synset.id == "n02012849"
    assert sum(
        add_image_evidence(crane, [0.9, 0.8, 0.7, 0.1, 0.5], lexicon, temperature=1e-4).scores
    ) == pytest.approx(1)
    assert add_image_evidence(flamingo, [0.5], lexicon) is flamingo


@pytest.mark.slow
def test_no_class_of_imagenet_is_ambiguous(lexicon):
    senses = choose_senses(open_vocabulary("imagenet-21k"), lexicon)
    assert len(senses) == 21841 and not ambiguous_senses(senses)
    assert all(sense.synset and sense.hypernym for sense in senses)


def test_the_chosen_sense_is_better_than_the_most_frequent_one(lexicon):
    """On ImageNet-1K's first lemmas: measured 80 % against 33 %."""
    classes = [ClassName(tables.lemmas()[id][0]) for id in tables.imagenet_1k()]
    ambiguous = [
        (sense, id)
        for sense, id in zip(choose_senses(classes, lexicon), tables.imagenet_1k(), strict=True)
        if sense.scores
    ]
    right = np.mean([sense.synset.id == id for sense, id in ambiguous])
    first = np.mean([sense.considered[0].id == id for sense, id in ambiguous])
    assert right > 0.75 and first < 0.4


BIRD = "n02012849"
MACHINE = "n03126707"
RODENT = "n02330245"
OWN_CLASSES = tuple(ClassName(name) for name in ("crane", "mouse", "minibus", "sea_ice"))


@pytest.fixture
def listed(tmp_path):
    """`listed("crane\\tn02012849", …)`: a class list, as the path that a setting would have."""

    def write(*lines):
        (tmp_path / "classes.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
        return str(tmp_path / "classes.txt")

    return write


def ids_of(senses):
    return [sense.synset and sense.synset.id for sense in senses]


def both_senses(own=OWN_CLASSES, vocabulary="data", **anchors):
    """Senses of the classes that students match, and of the data's own classes."""
    config = AnchorsConfig(vocabulary=vocabulary, **anchors)
    return resolve_senses(own, config, vocabulary), resolve_senses(own, config)


@pytest.mark.slow
@pytest.mark.usefixtures("excerpt")
def test_keys_of_the_source_give_senses_and_names_are_not_changed():
    own = dataset_classes(("crane", "tench", "moss"), (BIRD, "n01440764", None), None)
    assert own == (ClassName("crane", BIRD), ClassName("tench", "n01440764"), ClassName("moss"))
    matched = resolve_senses(own, AnchorsConfig())
    assert (
        ids_of(matched)[:2] == [BIRD, "n01440764"]
        and matched[0].why == "its own WordNet id"
        and matched[0].hypernym == "wading bird"
    )


@pytest.mark.usefixtures("excerpt")
def test_the_second_column_of_class_names_says_what_is_meant(listed):
    path = listed(f"crane\t{MACHINE}", "mouse\tthe one with buttons", "minibus")
    own = dataset_classes(("crane", "mouse", "minibus"), (None, None, None), path)
    assert own == (
        ClassName("crane", MACHINE),
        ClassName("mouse", context="the one with buttons"),
        ClassName("minibus"),
    )
    matched = resolve_senses(own, AnchorsConfig())
    assert ids_of(matched)[0] == MACHINE and (matched[1].synset, matched[1].context) == (
        None,
        "the one with buttons",
    )


@pytest.mark.usefixtures("excerpt")
def test_a_line_with_another_class_s_id_is_refused(listed):
    path = listed("goldfish\tn01443537", "tench\tn01440764")
    with pytest.raises(
        UserError,
        match="has n01443537 in line 1, but its folder is number 2; write the lines in label order",
    ):
        dataset_classes(("tench", "goldfish"), ("n01440764", "n01443537"), path)


@pytest.mark.usefixtures("excerpt")
def test_the_user_s_class_list_overrides_the_source(listed):
    path = listed(f"crane\t{MACHINE}", "fish\tthe one in the logo", "stop")
    own = dataset_classes(("crane", "fish", "stop"), (BIRD, "n01440764", "n02102040"), path)
    assert own == (
        ClassName("crane", MACHINE),
        ClassName("fish", context="the one in the logo"),
        ClassName("stop", "n02102040"),
    )


@pytest.mark.usefixtures("excerpt")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["crane", f"crane\t{BIRD}"],
            "has 'crane' 2 times; say which is which: put a tab and its WordNet id after each name",
        ),
        ([f"crane\t{BIRD}\tbird"], "line 1 has 3 fields"),
        (["crane\tn0201284"], "line 1 has 'n0201284', which is not a WordNet id"),
    ],
)
def test_a_bad_second_column_is_refused(listed, lines, message):
    with pytest.raises(UserError, match=re.escape(f"data.class_names {listed(*lines)}")) as caught:
        dataset_classes(
            [line.split("\t")[0] for line in lines], [None] * len(lines), listed(*lines)
        )
    assert message in str(caught.value)


@pytest.mark.usefixtures("excerpt")
def test_without_pins_or_ids_the_classes_disambiguate_each_other():
    bird, machine = (
        resolve_senses([ClassName(name) for name in names], AnchorsConfig())
        for names in (("crane", "heron"), ("crane", "forklift"))
    )
    assert ids_of(bird)[0] == BIRD and ids_of(machine)[0] == MACHINE


@pytest.mark.usefixtures("excerpt")
def test_a_pin_may_be_free_text():
    matched, own = both_senses(senses={"crane": BIRD, "mouse": "of a computer"})
    assert matched == own and ids_of(own)[0] == BIRD and own[0].why == "pinned by anchors.senses"
    assert (own[1].synset, own[1].context) == (None, "of a computer")


@pytest.mark.usefixtures("excerpt")
def test_pins_apply_to_the_vocabulary_the_classes_or_both(listed):
    words = listed("crane", "Sea ice", "tractor", f"bow\t{BIRD}")
    pins = {
        "crane": BIRD,
        "tractor": "a red one",
        "minibus": "a blue one",
        "Sea-Ice": "at the pole",
    }
    matched, own = both_senses(vocabulary=words, senses=pins)
    assert [sense.name for sense in matched] == ["crane", "Sea ice", "tractor", "bow"]
    assert ids_of(matched)[0] == ids_of(own)[0] == BIRD
    assert [sense.context for sense in matched] == [None, "at the pole", "a red one", None]
    assert [sense.context for sense in own] == [None, None, "a blue one", "at the pole"]


@pytest.mark.usefixtures("excerpt")
@pytest.mark.parametrize("which", [0, 1])
def test_a_pin_for_neither_is_refused(listed, which):
    config = AnchorsConfig(vocabulary=listed("heron", "tractor"), senses={"cranes": BIRD})
    with pytest.raises(
        UserError, match=r"anchors.senses pins 'cranes', which is not a class; did you mean crane\?"
    ) as caught:
        resolve_senses(OWN_CLASSES, config)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"anchors.senses pins 'cranes', which is not a class"):
        resolve_senses(OWN_CLASSES, config, config.vocabulary)


@pytest.mark.usefixtures("excerpt")
def test_a_pin_does_not_apply_to_a_vocabulary_with_several_classes_of_the_name():
    own = (ClassName("missile"), ClassName("crane"))
    matched, of_data = both_senses(own, "imagenet-1k", senses={"missile": "n04008634"})
    assert ids_of(of_data)[0] == "n04008634" and ids_of(matched) == list(tables.imagenet_1k())
    with pytest.raises(UserError, match="pins 'missile', but 2 classes have that name"):
        both_senses(OWN_CLASSES, "imagenet-1k", senses={"missile": "n04008634"})


@pytest.mark.usefixtures("excerpt")
@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (
            {"crane": "n99999999"},
            r"class 'crane' \(pinned by anchors.senses\): synset n99999999 is not among",
        ),
        ({"crane": " "}, "anchors.senses is empty for 'crane'"),
    ],
)
def test_a_bad_pin_is_refused_for_an_experiment(pins, message):
    with pytest.raises(UserError, match=message):
        both_senses(senses=pins)


@pytest.mark.usefixtures("excerpt")
def test_strict_senses_stop_at_the_first_ambiguous_class():
    with pytest.raises(UserError) as caught:
        both_senses(strict_senses=True)
    text = str(caught.value)
    machine = f"{MACHINE} (lifts and moves heavy objects; lifting tackle is …)"
    assert text.startswith(f"class crane has 5 senses ({machine}, {BIRD} (large long-necked")
    assert (
        f"; 1 more class is ambiguous too; pin one with --set 'anchors.senses={{crane: {MACHINE}}}'"
        in text
    )  # the most probable sense, not the writer
    assert text.endswith("see them all with `beamclip anchors --explain`") and "\n" not in text
    with pytest.raises(UserError, match=r"class mouse has 4 senses"):
        both_senses(strict_senses=True, senses={"crane": BIRD})
    pinned = {"crane": BIRD, "mouse": "of a computer"}
    assert both_senses(strict_senses=True, senses=pinned) == both_senses(senses=pinned)


@pytest.mark.usefixtures("excerpt")
def test_the_option_to_pin_is_quoted_for_any_name():
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


@pytest.mark.usefixtures("excerpt")
def test_strict_senses_accept_senses_that_come_with_the_data(listed):
    own = dataset_classes(
        ("crane", "mouse", "minibus"),
        (BIRD, None, None),
        listed("crane", f"mouse\t{RODENT}", "minibus"),
    )
    assert ids_of(both_senses(own, strict_senses=True)[1])[:2] == [BIRD, RODENT]
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
    assert len(both_senses(known, strict_senses=True)[1]) == 10  # CIFAR-10


@pytest.mark.slow
@pytest.mark.usefixtures("excerpt")
def test_strict_senses_check_the_vocabulary_too(listed):
    pinned = {"crane": BIRD, "mouse": RODENT}
    with pytest.raises(UserError, match="class bow has"):
        both_senses(vocabulary=listed("crane", "bow"), strict_senses=True, senses=pinned)


@pytest.mark.slow
@pytest.mark.usefixtures("excerpt")
def test_a_vocabulary_does_not_change_the_data_s_own_senses():
    for name, count in (("imagenet-1k", 1000), ("imagenet-21k", 21841), ("lvis", 1203)):
        matched, own = both_senses(vocabulary=name)
        assert len(matched) == count and own == both_senses()[1]
    matched, _ = both_senses(vocabulary="imagenet-1k")
    assert ids_of(matched) == list(tables.imagenet_1k()) and {BIRD, MACHINE} < set(ids_of(matched))


@pytest.mark.usefixtures("excerpt")
def test_a_file_is_a_vocabulary_and_read_again_each_time(listed):
    path = listed("heron", f"crane\t{MACHINE}")
    assert ids_of(both_senses(vocabulary=path)[0])[1] == MACHINE
    listed("heron", f"crane\t{BIRD}", "sea_ice\tfrozen water")
    matched, _ = both_senses(vocabulary=path)
    assert ids_of(matched)[1] == BIRD and matched[2].context == "frozen water"


@pytest.mark.usefixtures("excerpt")
def test_a_vocabulary_that_does_not_exist_is_refused():
    with pytest.raises(
        UserError,
        match=r"anchors.vocabulary imagenet1k is neither a file nor a vocabulary; "
        "did you mean imagenet-1k",
    ):
        both_senses(vocabulary="imagenet1k")


@pytest.mark.slow
@pytest.mark.usefixtures("excerpt")
@pytest.mark.parametrize(
    "module", ["beamclip.anchors", "beamclip.anchors.senses", "beamclip.anchors.wordnet"]
)
def test_names_and_senses_need_no_torch(module):
    code = f"""
import sys, {module}
sys.exit(bool({{"torch", "open_clip", "ray", "mlflow"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("excerpt")
def test_senses_of_class_lists_are_chosen_without_torch():
    code = """
import sys
from beamclip.anchors.wordnet import ClassName
from beamclip.anchors.senses import resolve_senses
from beamclip.config import AnchorsConfig
classes = [ClassName("crane"), ClassName("flamingo")]
senses = resolve_senses(classes, AnchorsConfig(vocabulary="lvis"))
assert senses[0].synset.id == "n02012849"
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_numbered_line_keeps_what_it_says_after_the_tab_wherever_its_class_is(listed):
    path = listed("1: crane\ta machine", "2: heron", "10: bat\tfor baseball")
    own = dataset_classes(("crane", "bat", "heron"), (None, None, None), path)
    assert own == (
        ClassName("crane", context="a machine"),
        ClassName("bat", context="for baseball"),
        ClassName("heron"),
    )


def test_ids_in_front_of_names_are_senses(listed):
    path = listed("n01443537\tgoldfish, Carassius", "n01440764 tench")
    own = dataset_classes(("tench", "goldfish"), ("n01440764", "n01443537"), path)
    assert own == (ClassName("tench", "n01440764"), ClassName("goldfish", "n01443537"))
