import open_clip
import pytest

from beamclip.anchors import PROMPT_SETS, prompts_for
from beamclip.config import UserError
from beamclip.config.inputs import PROMPT_SETS as CONFIGURABLE


@pytest.mark.parametrize(
    ("prompt_set", "templates", "count"),
    [("openai_7", open_clip.SIMPLE_IMAGENET_TEMPLATES, 7), ("openai_80", open_clip.OPENAI_IMAGENET_TEMPLATES, 80)],
)
def test_openai_s_sets_are_open_clip_s(prompt_set, templates, count):
    prompts = prompts_for(["tench", "great white shark"], prompt_set)
    assert prompts == [[template(name) for template in templates] for name in ("tench", "great white shark")]
    assert [len(set(of_class)) for of_class in prompts] == [count, count]


def test_plain_is_one_sentence():
    assert prompts_for(["three"], "plain") == [["a photo of a three."]]


def test_names_are_read_as_people_say_them():
    assert prompts_for([" sea_ice "], "plain") == [["a photo of a sea ice."]]


def test_the_configuration_offers_exactly_these_sets():
    assert set(CONFIGURABLE) == set(PROMPT_SETS)


def test_an_unknown_set_is_a_sentence_with_near_names():
    with pytest.raises(UserError, match=r"anchors.prompt_set openai_8 does not exist; did you mean .*openai_80"):
        prompts_for(["tench"], "openai_8")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_name_is_a_sentence(empty):
    with pytest.raises(UserError, match=r"class 1 has an empty name; give every class a name with data.class_names"):
        prompts_for(["tench", empty], "plain")
