import pytest

from beamclip.config import (
    Experiment,
    PromptSet,
    UserError,
    built_in_prompt_sets,
    load_experiment,
    parse_assignments,
    validate,
    with_values,
)
from beamclip.config.anchors import members_of

PHOTO = ("a photo of a {name}.",)
MINE = {
    "mine": {"templates": ["a sketch of a {name}."], "names": ["{name}, {gloss}"]},
    "both": {"of": ["mine", "openai_7"]},
}


def test_the_eight_built_in_sets_exist():
    sets = built_in_prompt_sets()
    assert list(sets) == [
        "plain",
        "openai_7",
        "openai_80",
        "hypernym",
        "gloss",
        "synonyms",
        "cpa",
        "ensemble",
    ]
    assert sets["plain"] == PromptSet() == PromptSet(templates=PHOTO, names=("{name}",))
    assert [sets[name].templates for name in ("openai_7", "openai_80", "cpa")] == [
        "openai_7",
        "openai_80",
        "openai_7",
    ]
    assert sets["hypernym"] == PromptSet(names=("{name}, a type of {hypernym}",))
    assert sets["gloss"] == PromptSet(names=("{name}, {gloss}",))
    assert sets["synonyms"] == PromptSet(names=("{synonym}",))
    assert sets["cpa"].names == ("{name}, {context}", "{name}, {gloss}")
    assert sets["ensemble"].of == ("openai_7", "hypernym", "gloss")


def test_a_name_stands_for_one_set_or_the_members_of_an_ensemble():
    sets = built_in_prompt_sets()
    assert members_of("plain", {}) == (sets["plain"],)
    assert members_of("ensemble", {}) == (sets["openai_7"], sets["hypernym"], sets["gloss"])
    assert members_of("openai_7 + gloss", {}) == (sets["openai_7"], sets["gloss"])
    assert members_of("plain+ensemble", {}) == (
        sets["plain"],
        sets["openai_7"],
        sets["hypernym"],
        sets["gloss"],
    )


def load(**anchors):
    return load_experiment("demo", {f"anchors.{key}": value for key, value in anchors.items()})


def test_custom_sets_can_be_named_joined_and_built_from_each_other():
    anchors = load(custom=MINE, prompt_set="both+plain").anchors
    mine = PromptSet(templates=("a sketch of a {name}.",), names=("{name}, {gloss}",))
    assert anchors.members() == (mine, *members_of("openai_7+plain", {}))
    assert anchors.members("mine") == (mine,)


def test_custom_sets_can_be_given_on_the_command_line():
    text = (
        "anchors.custom={mine: {templates: ['a {name} ({context}).', '{gloss}: a {name}.'], "
        "names: ['{synonym}']}}"
    )
    mine = load_experiment(
        "demo", parse_assignments([text, "anchors.prompt_set=mine"])
    ).anchors.members()
    assert mine == (
        PromptSet(templates=("a {name} ({context}).", "{gloss}: a {name}."), names=("{synonym}",)),
    )


def test_a_saved_experiment_with_custom_sets_loads_again():
    experiment = load(custom=MINE, prompt_set="both")
    assert (
        validate(Experiment, experiment.model_dump(mode="json"))
        == experiment
        == with_values(experiment, {})
    )
    changed = with_values(experiment, {"anchors.prompt_set": "mine+both", "seed": 3})
    assert changed.anchors.custom == experiment.anchors.custom
    assert len(changed.anchors.members()) == 3


def custom(**definition):
    return {"custom": {"mine": definition}}


@pytest.mark.parametrize(
    ("anchors", "says"),
    [
        (
            custom(templates=["a photo."]),
            (
                "anchors.custom.mine.templates: template 'a photo.' has no {name}, so all classes "
                "would get"
            ),
        ),
        (custom(templates=["{name}", "a {hypernym}."]), "template 'a {hypernym}.' has no {name}"),
        (
            custom(templates=["a {name} {hypernim}."]),
            "'a {name} {hypernim}.' has the unknown field {hypernim}; did you mean hypernym?",
        ),
        (custom(templates=["a {name} {}."]), "has the unknown field {}; known are context, gloss"),
        (
            custom(templates=["a {name.upper}."]),
            "has the unknown field {name.upper}; did you mean name?",
        ),
        (
            custom(templates=["a {name"]),
            "'a {name' has braces that don't pair; write fields as {name}",
        ),
        (custom(templates=["a name}"]), "'a name}' has braces that don't pair"),
        (
            custom(templates=["a {name:d}"]),
            (
                "'a {name:d}' has a field with a format, which names don't need; "
                "write fields as {name}"
            ),
        ),
        (custom(templates=["a {name!x}"]), "'a {name!x}' has a field with a format"),
        (
            custom(templates=["{name} or {synonym}."]),
            "template '{name} or {synonym}.' has {synonym}, which goes into names",
        ),
        (custom(templates=[]), "anchors.custom.mine.templates"),
        (
            custom(templates="openai_8"),
            "anchors.custom.mine.templates: 'openai_8' is neither a list of sentences nor openai_7",
        ),
        (custom(templates="a {name}."), "write ['a {name}.'] for one sentence"),
        (
            custom(names=["a {gloss}"]),
            (
                "anchors.custom.mine.names: phrase 'a {gloss}' has neither {name} nor {synonym}; "
                "add one"
            ),
        ),
        (
            custom(names=["{synonim}"]),
            "'{synonim}' has the unknown field {synonim}; did you mean synonym?",
        ),
        (custom(names=[]), "anchors.custom.mine.names"),
        (custom(template=["a {name}."]), "anchors.custom.mine.template is not a setting"),
        (
            custom(of=["plain"], names=["{synonym}"]),
            "of makes an ensemble of other prompt sets; drop either of, or templates and names",
        ),
        (custom(of=["plian"]), "prompt set plian does not exist; did you mean plain"),
        (custom(of=["mine"]), "prompt set mine contains itself (mine -> mine); break the cycle"),
        (
            {"custom": {"a": {"of": ["plain", "b"]}, "b": {"of": ["gloss+a"]}}},
            "(a -> b -> gloss+a -> a); break the cycle",
        ),
        (
            {"custom": {"gloss": {}}},
            "gloss is the name of a built-in prompt set; choose another name",
        ),
        ({"custom": {"a+b": {}}}, "'a+b' can't name a prompt set; use letters, digits and _"),
        ({"custom": {" ": {}}}, "' ' can't name a prompt set"),
        ({"prompt_set": "hypernim"}, "prompt set hypernim does not exist; did you mean hypernym"),
        ({"prompt_set": "openai_7+glos"}, "prompt set glos does not exist; did you mean gloss"),
        ({"prompt_set": "openai_7+"}, "prompt set '' does not exist"),
        ({"prompt_set": "min", "custom": MINE}, "prompt set min does not exist; did you mean mine"),
        ({"count": 1}, "anchors.count is 1: input should be greater than or equal to 2"),
        ({"senses": {"crane": 3}}, "anchors.senses.crane is 3: input should be a valid string"),
    ],
)
def test_a_wrong_prompt_set_is_a_user_error(anchors, says):
    with pytest.raises(UserError) as caught:
        load(**anchors)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_teacher_s_set_must_exist_too():
    with pytest.raises(
        UserError, match="prompt set hypernim does not exist; did you mean hypernym"
    ):
        load_experiment("demo", {"teacher.others": [{"model": "demo", "prompt_set": "hypernim"}]})
    values = {
        "teacher.others": [{"model": "demo", "prompt_set": "both+plain"}],
        "anchors.custom": MINE,
    }
    assert load_experiment("demo", values).teacher.others[0].prompt_set == "both+plain"
