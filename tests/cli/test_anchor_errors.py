"""Errors in anchors, class lists and senses, as `beamclip anchors` reports them."""

import pytest
from helpers import tiny

from beamclip.cli.main import main

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["anchors.prompt_set=hypernim"],
            "prompt set hypernim does not exist; did you mean hypernym",
        ),
        (["anchors.prompt_set=plain+glos"], "prompt set glos does not exist; did you mean gloss"),
        (
            ["anchors.custom={mine: {templates: ['a photo.']}}"],
            "anchors.custom.mine.templates: template 'a photo.' has no {name}",
        ),
        (
            ["anchors.custom={mine: {templates: ['a {nam}.']}}"],
            "'a {nam}.' has the unknown field {nam}; did you mean name",
        ),
        (
            ["anchors.custom={mine: {names: ['{gloss}']}}"],
            "phrase '{gloss}' has neither {name} nor {synonym}; add one",
        ),
        (["anchors.custom={plain: {}}"], "plain is the name of a built-in prompt set"),
        (
            ["anchors.senses={gren: n02012849}"],
            "anchors.senses pins 'gren', which is not a class; did you mean green",
        ),
        (
            ["anchors.senses={green: n99999999}"],
            "class 'green' (pinned by anchors.senses): synset n99999999 is not among",
        ),
        (
            ["anchors.senses={green: ' '}"],
            "anchors.senses is empty for 'green'; give a WordNet id such as n02012849",
        ),
        (
            ["anchors.vocabulary=imagenet1k"],
            (
                "anchors.vocabulary imagenet1k is neither a file nor a vocabulary; "
                "did you mean imagenet-1k"
            ),
        ),
        (["anchors.count=5"], "anchors.count 5 is more than the 4 class names of the data"),
    ],
)
@pytest.mark.usefixtures("excerpt")
def test_errors_in_anchor_settings_are_named_and_leave_no_files(
    complaint, preset, storage, settings, says
):
    options = [part for setting in settings for part in ("--set", setting)]
    assert says in complaint("anchors", "--preset", preset, "--storage", storage, *options)
    assert tiny.left_behind(storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("key", ["data.class_names", "anchors.vocabulary"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"caf\xe9\nblue\ngreen\nred\n",
            "is not UTF-8; save it as UTF-8 text, one class name per line",
        ),
        (b"red\nblue\nred\ngreen\n", "has 'red' 2 times"),
        (
            b"blue\ngreen\nred\nred\tn02012849\n",
            "has 'red' 2 times; say which is which: put a tab and its WordNet id after each name",
        ),
        (b"", "is empty"),
        (b"red\n\nblue\ngreen\n", "line 2"),
        (b"\tn02012849\ngreen\nred\nyellow\n", "line 1 has no class name"),
        (
            b"blue\tn99999999\ngreen\nred\nyellow\n",
            "class 'blue' (its own WordNet id): synset n99999999 is not among",
        ),
        (b"blue\tn201284\ngreen\nred\nyellow\n", "line 1 has 'n201284', which is not a WordNet id"),
        (None, ""),
    ],
)
@pytest.mark.usefixtures("excerpt")
def test_a_bad_class_list_is_named(complaint, preset, storage, tmp_path, key, content, says):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    error = complaint("anchors", "--preset", preset, "--storage", storage, "--set", f"{key}={path}")
    assert says in error
    assert f"{key} {path}" in error or error.startswith("class 'blue'")
    assert tiny.left_behind(storage) == []


@pytest.mark.usefixtures("excerpt")
def test_strict_senses_stop_with_a_user_error(complaint, preset, storage, tmp_path):
    (tmp_path / "names.txt").write_text("crane\nheron\nforklift\nmouse\n")
    options = [
        "--preset",
        preset,
        "--storage",
        storage,
        "--set",
        f"data.class_names={tmp_path / 'names.txt'}",
        "--strict-senses",
    ]
    error = complaint("anchors", *options)
    assert (
        error.startswith("class crane has 5 senses (")
        and "pin one with --set 'anchors.senses={crane: n" in error
    )
    assert "1 more class is ambiguous too" in error and error.endswith(
        "see them all with `beamclip anchors --explain`"
    )
    assert "class mouse has 4 senses" in complaint(
        "anchors", *options, "--set", "anchors.senses={crane: n02012849}"
    )
    assert tiny.left_behind(storage) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("1.5", "1.5 is not a cosine; give a number from -1 to 1"),
        ("nan", "is not a cosine"),
        ("x", "x is not a cosine; give a number from -1 to 1"),
    ],
)
def test_a_cosine_is_between_minus_one_and_one(capsys, value, says):
    with pytest.raises(SystemExit) as caught:
        main(["anchors", "--near", value])
    assert caught.value.code == 2 and says in capsys.readouterr().err
