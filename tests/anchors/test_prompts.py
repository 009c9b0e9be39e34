import open_clip
import pytest

from beamclip.anchors import prompts_for
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config import PromptSet, UserError, built_in_prompt_sets
from beamclip.config.anchors import members_of

LEXICON = Excerpt()
BIRD, MACHINE = "n02012849", "n03126707"
WADER = "large long-necked wading bird of marshes and plains in many parts of the world"
LIFTER = (
    "lifts and moves heavy objects; lifting tackle is suspended from a pivoted boom "
    "that rotates around a vertical axis"
)


def senses_of(*classes):
    """Senses of names, pairs of a name and a WordNet id, or whole `ClassName`s."""
    class_names = []
    for class_name in classes:
        if isinstance(class_name, tuple):
            class_name = ClassName(*class_name)
        elif isinstance(class_name, str):
            class_name = ClassName(class_name)
        class_names.append(class_name)
    return choose_senses(class_names, LEXICON)


def sentences(class_name, prompt_set):
    """The sentences of one class, for each member of the prompt set."""
    (of_class,) = prompts_for(
        senses_of(class_name),
        prompt_set if isinstance(prompt_set, tuple) else members_of(prompt_set, {}),
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
    prompts = prompts_for(
        senses_of(("tench", "n01440764"), ("great white shark", "n01484850")),
        members_of(prompt_set, {}),
    )
    assert prompts == tuple(
        ((tuple(template(name) for template in library)),)
        for name in ("tench", "great white shark")
    )


def test_the_user_s_own_words_replace_context_and_gloss():
    custom = ClassName("crane", context="the bird on our logo")
    # Both phrases of cpa give the same sentences, which are used once.
    assert sentences(custom, "cpa") == (simple("crane, the bird on our logo"),)
    assert sentences(custom, "gloss") == (("a photo of a crane, the bird on our logo.",),)
    # The hypernym is unknown.
    assert sentences(custom, "hypernym") == (("a photo of a crane, the bird on our logo.",),)
    assert (
        sentences(custom, "synonyms") == sentences(custom, "plain") == (("a photo of a crane.",),)
    )


@pytest.mark.parametrize("prompt_set", built_in_prompt_sets())
def test_a_class_without_a_known_sense_uses_its_name(prompt_set):
    plain, seven = ("a photo of a qwrtz.",), simple("qwrtz")
    eighty = tuple(template("qwrtz") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    others = {
        "openai_7": (seven,),
        "openai_80": (eighty,),
        "cpa": (seven,),
        "ensemble": (seven, plain, plain),
    }
    assert sentences("qwrtz", prompt_set) == others.get(prompt_set, (plain,))


def test_a_template_with_an_unknown_field_is_left_out():
    custom = (PromptSet(templates=("a {name}.", "a {name}, which is a {hypernym}.")),)
    assert sentences(("crane", BIRD), custom) == (("a crane.", "a crane, which is a wading bird."),)
    assert sentences("qwrtz", custom) == (("a qwrtz.",),)
    only = (PromptSet(templates=("a {name}, which is a {hypernym}.",)),)
    assert sentences("qwrtz", only) == (("a photo of a qwrtz.",),)
    assert sentences(ClassName("crane", context="the bird"), only) == (
        ("a photo of a crane, the bird.",),
    )


def test_a_phrase_with_an_unknown_field_is_left_out():
    custom = (PromptSet(names=("{name}, {gloss}", "{name}")),)
    assert sentences(("crane", BIRD), custom) == (
        (f"a photo of a crane, {WADER}.", "a photo of a crane."),
    )
    assert sentences("qwrtz", custom) == (("a photo of a qwrtz.",),)


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


def test_equal_sentences_are_used_once():
    twice = (
        PromptSet(
            templates=("a {name}.", "a  {name}.", "a {name}."), names=("{name}", "{synonym}")
        ),
    )
    assert sentences(("crane", BIRD), twice) == (("a crane.", "a  crane."),)


def test_underscores_in_names_become_spaces():
    assert sentences(" sea__ice ", "plain") == (("a photo of a sea ice.",),)
    assert sentences(("aquarium_fish", "n01443537"), "hypernym")[0][0].startswith(
        "a photo of a aquarium fish, a type of "
    )
    # A name is not a template.
    assert sentences("{name} % {gloss}", "plain") == (("a photo of a {name} % {gloss}.",),)


def test_members_of_an_ensemble_stay_separate_with_any_number_of_sentences():
    prompts = prompts_for(
        senses_of(("crane", BIRD), ("cab", "n02930766"), "qwrtz"),
        members_of("openai_7+plain+synonyms", {}),
    )
    assert [[len(member) for member in of_class] for of_class in prompts] == [
        [7, 1, 1],
        [7, 1, 4],
        [7, 1, 1],
    ]


@pytest.mark.parametrize("empty", ["", "  ", "_"])
def test_an_empty_name_is_refused(empty):
    with pytest.raises(
        UserError, match=r"class 1 has an empty name; give every class a name with data.class_names"
    ):
        prompts_for(
            senses_of("tench", ClassName(empty, context="nothing")), members_of("plain", {})
        )
