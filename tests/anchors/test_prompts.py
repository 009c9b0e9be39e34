import open_clip
import pytest

from beamclip.anchors import prompts_for
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config import PromptSet, UserError, built_in_prompt_sets
from beamclip.config.prompts import members_of

LEXICON = Excerpt()
BIRD, MACHINE = "n02012849", "n03126707"
WADER = "large long-necked wading bird of marshes and plains in many parts of the world"
LIFTER = "lifts and moves heavy objects; lifting tackle is suspended from a pivoted boom that rotates around a vertical axis"


def classes(*known):
    """Senses of names, pairs of a name and a WordNet id, or whole `ClassName`s."""
    named = [
        ClassName(*one)
        if isinstance(one, tuple)
        else ClassName(one)
        if isinstance(one, str)
        else one
        for one in known
    ]
    return choose_senses(named, LEXICON)


def sentences(known, prompt_set):
    """Of one class, of each member of the prompt set."""
    (of_class,) = prompts_for(
        classes(known), prompt_set if isinstance(prompt_set, tuple) else members_of(prompt_set, {})
    )
    return of_class


def simple(phrase):
    """CLIP's seven templates around a phrase, written out."""
    return (
        f"itap of a {phrase}.",
        f"a bad photo of the {phrase}.",
        f"a origami {phrase}.",
        f"a photo of the large {phrase}.",
        f"a {phrase} in a video game.",
        f"art of the {phrase}.",
        f"a photo of the small {phrase}.",
    )


OF_CRANE = {
    "plain": lambda kind, gloss: (("a photo of a crane.",),),
    "openai_7": lambda kind, gloss: (simple("crane"),),
    "openai_80": lambda kind, gloss: (
        tuple(template("crane") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
    ),
    "hypernym": lambda kind, gloss: ((f"a photo of a crane, a type of {kind}.",),),
    "gloss": lambda kind, gloss: ((f"a photo of a crane, {gloss}.",),),
    "synonyms": lambda kind, gloss: (("a photo of a crane.",),),
    "cpa": lambda kind, gloss: (simple(f"crane, a type of {kind}") + simple(f"crane, {gloss}"),),
    "ensemble": lambda kind, gloss: (
        simple("crane"),
        (f"a photo of a crane, a type of {kind}.",),
        (f"a photo of a crane, {gloss}.",),
    ),
}


@pytest.mark.parametrize("prompt_set", built_in_prompt_sets())
@pytest.mark.parametrize(
    ("synset", "kind", "gloss"), [(BIRD, "wading bird", WADER), (MACHINE, "lifting device", LIFTER)]
)
def test_the_two_cranes_in_every_built_in_set(prompt_set, synset, kind, gloss):
    assert sentences(("crane", synset), prompt_set) == OF_CRANE[prompt_set](kind, gloss)


@pytest.mark.parametrize("prompt_set", ["openai_7", "openai_80"])
def test_openai_s_sets_are_open_clip_s_own(prompt_set):
    library = {
        "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
        "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
    }[prompt_set]
    assert len(library) == int(prompt_set.removeprefix("openai_"))
    found = prompts_for(
        classes(("tench", "n01440764"), ("great white shark", "n01484850")),
        members_of(prompt_set, {}),
    )
    assert found == tuple(
        ((tuple(template(name) for template in library)),)
        for name in ("tench", "great white shark")
    )


def test_one_s_own_words_for_a_class_stand_for_context_and_gloss():
    mine = ClassName("crane", context="the bird on our logo")
    assert sentences(mine, "cpa") == (
        simple("crane, the bird on our logo"),
    )  # both phrases say the same, and are said once
    assert sentences(mine, "gloss") == (("a photo of a crane, the bird on our logo.",),)
    assert sentences(mine, "hypernym") == (
        ("a photo of a crane, the bird on our logo.",),
    )  # what kind of thing it is, nobody knows
    assert sentences(mine, "synonyms") == sentences(mine, "plain") == (("a photo of a crane.",),)


@pytest.mark.parametrize("prompt_set", built_in_prompt_sets())
def test_a_class_of_which_nothing_is_known_goes_by_its_name(prompt_set):
    plain, seven = ("a photo of a qwrtz.",), simple("qwrtz")
    eighty = tuple(template("qwrtz") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    others = {
        "openai_7": (seven,),
        "openai_80": (eighty,),
        "cpa": (seven,),
        "ensemble": (seven, plain, plain),
    }
    assert sentences("qwrtz", prompt_set) == others.get(prompt_set, (plain,))


def test_a_template_whose_fields_are_not_known_is_left_out():
    mine = (PromptSet(templates=("a {name}.", "a {name}, which is a {hypernym}.")),)
    assert sentences(("crane", BIRD), mine) == (("a crane.", "a crane, which is a wading bird."),)
    assert sentences("qwrtz", mine) == (("a qwrtz.",),)
    only = (PromptSet(templates=("a {name}, which is a {hypernym}.",)),)
    assert sentences("qwrtz", only) == (("a photo of a qwrtz.",),)
    assert sentences(ClassName("crane", context="the bird"), only) == (
        ("a photo of a crane, the bird.",),
    )


def test_a_phrase_whose_fields_are_not_known_is_left_out():
    mine = (PromptSet(names=("{name}, {gloss}", "{name}")),)
    assert sentences(("crane", BIRD), mine) == (
        (f"a photo of a crane, {WADER}.", "a photo of a crane."),
    )
    assert sentences("qwrtz", mine) == (("a photo of a qwrtz.",),)


def test_synonyms_give_a_prompt_to_every_lemma():
    cab = ("cab", "n02930766")
    assert sentences(cab, "synonyms") == (
        ("a photo of a cab.", "a photo of a hack.", "a photo of a taxi.", "a photo of a taxicab."),
    )
    both = (PromptSet(templates=("a {name}.", "two {name}s."), names=("{synonym} or {name}",)),)
    assert sentences(("my car", "n02930766"), both)[0][:3] == (
        "a cab or my car.",
        "two cab or my cars.",
        "a hack or my car.",
    )
    assert len(sentences(cab, "openai_7+synonyms")[1]) == 4


def test_the_same_sentence_is_said_once():
    twice = (
        PromptSet(
            templates=("a {name}.", "a  {name}.", "a {name}."), names=("{name}", "{synonym}")
        ),
    )
    assert sentences(("crane", BIRD), twice) == (("a crane.", "a  crane."),)


def test_names_are_read_as_people_say_them():
    assert sentences(" sea__ice ", "plain") == (("a photo of a sea ice.",),)
    assert sentences(("aquarium_fish", "n01443537"), "hypernym")[0][0].startswith(
        "a photo of a aquarium fish, a type of "
    )
    assert sentences("{name} % {gloss}", "plain") == (
        ("a photo of a {name} % {gloss}.",),
    )  # a name is no template


def test_an_ensemble_keeps_its_members_apart_however_many_sentences_each_has():
    found = prompts_for(
        classes(("crane", BIRD), ("cab", "n02930766"), "qwrtz"),
        members_of("openai_7+plain+synonyms", {}),
    )
    assert [[len(member) for member in of_class] for of_class in found] == [
        [7, 1, 1],
        [7, 1, 4],
        [7, 1, 1],
    ]


@pytest.mark.parametrize("empty", ["", "  ", "_"])
def test_an_empty_name_is_a_sentence(empty):
    with pytest.raises(
        UserError, match=r"class 1 has an empty name; give every class a name with data.class_names"
    ):
        prompts_for(classes("tench", ClassName(empty, context="nothing")), members_of("plain", {}))
