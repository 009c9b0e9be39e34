import re

import numpy as np
import pytest

from beamclip.anchors.senses import ambiguous, choose_senses, propose
from beamclip.anchors.wordnet import ClassName, Excerpt, open_vocabulary
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import table_rows
from beamclip.config import UserError


@pytest.fixture(scope="module")
def lexicon():
    """The excerpt, so that nothing needs to be installed and the same is chosen everywhere."""
    return Excerpt()


def choose(lexicon, *names, **pins):
    return choose_senses(
        [one if isinstance(one, ClassName) else ClassName(one) for one in names], lexicon, pins
    )


def test_the_other_classes_decide(lexicon):
    bird = choose(lexicon, "crane", "flamingo", "pelican", "albatross", "bittern")[0]
    machine = choose(lexicon, "crane", "forklift", "tow truck", "tractor", "snowplow")[0]
    assert bird.synset.id == "n02012849" and bird.hypernym == "wading bird"
    assert machine.synset.id == "n03126707" and machine.hypernym == "lifting device"
    assert re.fullmatch(r"fits the other classes best \(0\.\d\d, next 0\.\d\d\)", bird.why)


def test_scores_are_of_those_considered_and_names_have_no_chance(lexicon):
    crane = choose(lexicon, "crane", "flamingo")[0]
    assert len(crane.considered) == len(crane.scores) == 5
    assert [score > 0 for score in crane.scores] == [not one.instance for one in crane.considered]
    assert (
        sum(crane.scores) == pytest.approx(1)
        and crane.considered[int(np.argmax(crane.scores))] == crane.synset
    )


def test_a_pin_is_stronger_than_anything(lexicon):
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


def test_what_is_given_is_stronger_than_what_is_known(lexicon):
    names = [spelling for of, spelling, _ in table_rows("classes.tsv") if of == "CIFAR-10"]
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
        and not ambiguous(senses)
    )


def test_one_sense_and_none(lexicon):
    heron, thing, bus = choose(lexicon, "flamingo bird", "qwrtz", "minibus")
    assert bus.why == "its only sense" and bus.synset.lemmas[0] == "minibus" and bus.scores == ()
    assert (
        heron.synset is thing.synset is None
        and heron.why == "no noun that the excerpt of WordNet knows"
    )


class OnlyNames(Excerpt):
    """A lexicon that knows persons, places and stars alone."""

    def senses(self, name):
        return tuple(one for one in super().senses(name) if one.instance)


def test_a_named_thing_is_chosen_where_there_is_nothing_else(lexicon):
    assert choose(OnlyNames(), "crane")[0].synset.instance
    senses = {form: lexicon.senses(form) for form in lexicon.forms()}
    beside = next(
        form
        for form, of in senses.items()
        if len(of) > 1 and sum(not one.instance for one in of) == 1
    )
    chosen = choose(lexicon, beside)[0]
    assert (
        chosen.why == "its only sense that is not a name"
        and not chosen.synset.instance
        and len(chosen.considered) > 1
    )


def test_one_class_alone_is_said_to_be_alone(lexicon):
    mouse = choose(lexicon, "mouse")[0]
    assert (
        mouse.why.startswith("the likeliest by itself, with no other class to compare")
        and len(ambiguous([mouse])) == 1
    )


def test_ambiguous_are_those_that_had_to_be_weighed(lexicon):
    classes = ["crane", "heron bird", "minibus", ClassName("mouse", synset="n02330245"), "bow"]
    assert [one.name for one in ambiguous(choose(lexicon, *classes))] == ["crane", "bow"]
    assert [one.name for one in ambiguous(choose(lexicon, *classes, bow="a weapon"))] == ["crane"]


@pytest.mark.parametrize("spelling", ["Golf_ball", "golf-ball", "golf ball"])
def test_a_pin_may_be_spelled_otherwise(lexicon, spelling):
    assert (
        choose_senses([ClassName("golf ball")], lexicon, {spelling: "n03445777"})[0].why
        == "pinned by anchors.senses"
    )


@pytest.mark.parametrize(
    ("pins", "sentence"),
    [
        (
            {"cranes": "n02012849"},
            "anchors.senses pins 'cranes', which is no class; did you mean crane?",
        ),
        (
            {"crane": "n99999999"},
            "class 'crane' (pinned by anchors.senses): synset n99999999 is not among the synsets",
        ),
        (
            {"crane": "n99999999"},
            "; crane may be n10914447 (United States writer (1871-1900)) or n10914331",
        ),
        ({"crane": " "}, "anchors.senses has nothing for 'crane'; give a WordNet id"),
        ({"missile": "n04008634"}, "anchors.senses pins 'missile', which 2 classes are called"),
    ],
)
def test_a_bad_pin_gets_a_sentence(lexicon, pins, sentence):
    classes = [
        ClassName("crane"),
        ClassName("missile", "n03773504"),
        ClassName("missile", "n04008634"),
    ]
    with pytest.raises(UserError, match=re.escape(sentence)):
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
def test_what_is_almost_an_id_is_not_taken_for_words(lexicon, pin):
    with pytest.raises(
        UserError,
        match=rf"class 'crane' \(pinned by anchors.senses\): '{re.escape(pin)}' is no WordNet id",
    ):
        choose_senses([ClassName("crane")], lexicon, {"crane": pin})


def test_nothing_is_said_to_be_a_type_of_itself(lexicon):
    (newt,) = choose(
        lexicon, ClassName("newt", synset="n01630670")
    )  # the common newt, which WordNet has below newts
    assert (
        lexicon.synset(newt.synset.parents[0]).lemmas[0] == "newt" and newt.hypernym == "salamander"
    )


def test_plurals_that_have_a_sense_of_their_own_are_weighed_with_their_singulars(lexicon):
    glasses = choose(lexicon, "glasses", "wineglass", "beer mug", "coffee mug")[0]
    assert glasses.scores and "glass" in glasses.synset.lemmas


def test_an_id_that_does_not_exist_gets_a_sentence(lexicon):
    with pytest.raises(
        UserError, match=r"class 'tench' \(its own WordNet id\): synset n99999999 is not among"
    ):
        choose(lexicon, ClassName("tench", synset="n99999999"))


def test_images_propose_another_sense(lexicon):
    mouse = choose(lexicon, "mouse", "hamster", "porcupine", "beaver")[0]
    assert mouse.synset.id == "n02330245" and mouse.hypernym == "rodent"
    seen = propose(mouse, [0.10, 0.08, 0.05, 0.30], lexicon)
    assert (
        seen.synset.id == "n03793489"
        and seen.hypernym == "electronic device"
        and seen.considered == mouse.considered
    )
    assert seen.why.startswith(
        "fits the other classes and the images best ("
    ) and seen.why.endswith("; without images it was n02330245")


def test_images_and_classes_count_together(lexicon):
    mouse = choose(lexicon, "mouse", "hamster", "porcupine", "beaver")[0]
    cosines = np.array([0.10, 0.08, 0.05, 0.12])
    weights = mouse.scores * np.exp(cosines / 0.02)
    both = propose(mouse, cosines, lexicon, temperature=0.02)
    assert (
        both.scores == pytest.approx(weights / weights.sum())
        and both.synset == mouse.synset
        and "without" not in both.why
    )
    assert (
        propose(mouse, cosines, lexicon, temperature=0.001).synset.id == "n03793489"
    )  # images alone


def test_images_do_not_propose_a_person_or_overrule_what_was_given(lexicon):
    crane, flamingo = choose(lexicon, "crane", ClassName("flamingo", synset="n02007558"))
    assert propose(crane, [0.9, 0.8, 0.7, 0.1, 0.5], lexicon).synset.id == "n02012849"
    assert sum(
        propose(crane, [0.9, 0.8, 0.7, 0.1, 0.5], lexicon, temperature=1e-4).scores
    ) == pytest.approx(1)
    assert propose(flamingo, [0.5], lexicon) is flamingo


def test_imagenet_needs_nothing_weighed(lexicon):
    senses = choose_senses(open_vocabulary("imagenet-21k"), lexicon)
    assert len(senses) == 21841 and not ambiguous(senses)
    assert all(sense.synset and sense.hypernym for sense in senses)


def test_better_than_the_most_frequent_sense(lexicon):
    """On ImageNet-1K's first lemmas: measured 80 % against 33 %."""
    classes = [ClassName(tables.lemmas()[id][0]) for id in tables.imagenet_1k()]
    weighed = [
        (sense, id)
        for sense, id in zip(choose_senses(classes, lexicon), tables.imagenet_1k(), strict=True)
        if sense.scores
    ]
    right = np.mean([sense.synset.id == id for sense, id in weighed])
    first = np.mean([sense.considered[0].id == id for sense, id in weighed])
    assert right > 0.75 and first < 0.4
