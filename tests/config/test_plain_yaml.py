from pathlib import Path

import pytest
import yaml

from beamclip.config import UserError, load_experiment, parse_assignments
from beamclip.config.plain_yaml import read_yaml

ROOT = Path(__file__).parents[2]
SETTINGS_FILES = [
    *(ROOT / "beamclip" / "config" / "presets").glob("*.yaml"),
    *(ROOT / "docs" / "results").glob("*.yaml"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer:\n  lr: 0.5\nstudent: {}\noptimizer:\n  epochs: 3\n",
            "has the key optimizer a second time in line 4; keep one",
        ),
        ("optimizer:\n  lr: 0.5\n  'lr': 0.7\n", "has the key lr a second time in line 3"),
        (
            "optimizer: {lr: 0x_}",
            "has '0x_' in line 1, which is not a valid int; quote it if it is text",
        ),
        ("optimizer: {lr: 0b_}", "has '0b_' in line 1, which is not a valid int"),
        ("optimizer:\n  lr: !!int abc", "has 'abc' in line 2, which is not a valid int"),
        ("optimizer: {lr: !!int ''}", "has '' in line 1, which is not a valid int"),
        ("optimizer: {lr: !!bool abc}", "has 'abc' in line 1, which is not a valid bool"),
        ("optimizer: {lr: !!timestamp abc}", "has 'abc' in line 1, which is not a valid timestamp"),
        ("optimizer: &x\n  a: *x\n", "has an alias (*) inside the value it refers to"),
        ("optimizer: {? !!timestamp 2020-01-01 : 1}", "as a key; write a word"),
        ("? !!binary aGVsbG8=\n: 1\n", "has b'hello' as a key; write a word"),
        ("[" * 5000, "is nested too deeply"),
        (
            "a: &a {x: 1}\nb:\n  <<: *a\n  y: 3\n",
            "has a merge key (<<) in line 3, which is not supported; write its settings out",
        ),
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b]}\n", "a merge key (<<) in line 2"),
        ("{<<: {lr: 1}}", "has a merge key (<<) in line 1"),
    ],
)
def test_unusable_yaml_is_a_user_error_in_a_file_and_on_the_command_line(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    for read in (
        lambda: load_experiment(str(tmp_path / "mine.yaml")),
        lambda: parse_assignments([f"student.x={text}"]),
    ):
        with pytest.raises(
            UserError, match=r"mine.yaml has|mine.yaml is|--set student.x "
        ) as caught:
            read()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_one_value_may_be_used_in_several_places():
    """An alias is not a duplicate key, and a value that many aliases share is checked once."""
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: [*a, {z: *a}]\n"
    shared = {"x": 1, "y": 2}
    assert read_yaml(text) == {"a": shared, "b": shared, "c": [shared, {"z": shared}]}
    doubled = "\n".join(["- &a0 []", *(f"- &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
    assert len(read_yaml(doubled)) == 60


def test_a_quoted_merge_key_is_a_plain_string():
    assert read_yaml("{'<<': 1}") == {"<<": 1}


@pytest.mark.parametrize("text", ["${home}/x", "${", "a ${env:HOME", "$[x]", "???"])
def test_dollar_signs_and_braces_are_not_interpolated(text):
    assert read_yaml(f"'{text}'") == text
    assert parse_assignments([f"data.path='{text}'"]) == {"data.path": text}


@pytest.mark.parametrize("path", SETTINGS_FILES, ids=lambda path: path.name)
def test_our_settings_files_are_read_the_same_by_any_yaml_reader(path):
    text = path.read_text(encoding="utf-8")
    assert read_yaml(text) == yaml.safe_load(text)


def test_invalid_yaml_raises_yaml_s_own_error():
    with pytest.raises(yaml.YAMLError):
        read_yaml("a: [1")
