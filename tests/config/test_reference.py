from pathlib import Path

import pytest

from beamclip.config import Experiment, OtherTeacher, PromptSet, known_keys
from beamclip.config.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.slow
def test_every_setting_is_in_the_reference():
    text = reference()
    assert [key for key in known_keys(Experiment) if f"`{key}`" not in text] == []


@pytest.mark.slow
def test_recipes_and_prompt_sets_are_described_and_built_in_ones_listed():
    recipe, prompt_set = reference().split("\n## A recipe\n")[1].split("\n## A prompt set\n")
    assert (
        "Built in: `center`, `weak`, `simclr`, `simclr_small`, `multicrop`. Your own go under "
        "`views.custom`." in recipe
    )
    assert (
        "every phrase of `names` in every template. Built in: `plain`, `openai_7`, `openai_80`, "
        "`hypernym`," in prompt_set
    )
    assert "Your own go under `anchors.custom`." in prompt_set
    assert (
        "| `templates` | tuple[str, ...] or `openai_7`, `openai_80` | `['a photo of a {name}.']` | "
        "Sentences around" in prompt_set
    )
    assert [
        line.split("`")[1] for line in prompt_set.splitlines() if line.startswith("| `")
    ] == list(PromptSet.model_fields)


def test_settings_in_a_list_have_a_table():
    for text in (reference(), PAGE.read_text(encoding="utf-8")):
        others = text.split("\n### teacher.others\n")[1].split("\n## ")[0]
        assert "Each entry of the list has these settings." in others
        assert "| `temperature` | float or None | `null` | Its τ_T; default" in others
        keys = [line.split("`")[1] for line in others.splitlines() if line.startswith("| `")]
        assert keys == list(OtherTeacher.model_fields)


@pytest.mark.slow
def test_types_are_written_readably():
    text = reference()
    assert (
        "| `anchors.custom` | dict[str, PromptSet] | `{}` |" in text
        and "| `anchors.count` | int or None | `null` |" in text
    )
    assert (
        "| `teacher.others` | tuple[OtherTeacher, ...] |" in text
        and "| `teacher.actors` | tuple[int, int] or None |" in text
    )
    assert "| `views.teacher` | `same`, `center`, `live` | `same` |" in text
    assert not [
        word
        for word in (
            "beamclip.config.inputs",
            "typing",
            "<class",
            "Optional",
            "Literal",
            "Annotated",
            "Union",
        )
        if word in text
    ]


def test_the_page_names_every_setting():
    page = PAGE.read_text(encoding="utf-8")
    missing = [key for key in known_keys(Experiment) if f"`{key}`" not in page]
    assert missing == [], "run python -m beamclip.config.reference > docs/configuration.md"
