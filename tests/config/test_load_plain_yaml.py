import pytest
import yaml

from beamclip.config import UserError, load_experiment, parse_assignments
from beamclip.config.load import read_yaml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "optimiser:\n  lr: 0.5\nstudent: {}\noptimiser:\n  epochs: 3\n",
            "has the key optimiser a second time in line 4; keep one",
        ),
        ("optimiser:\n  lr: 0.5\n  'lr': 0.7\n", "has the key lr a second time in line 3"),
        ("optimiser: {lr: 0x_}", "has '0x_' in line 1, which is no int; quote it if it is text"),
        ("optimiser: {lr: 0b_}", "has '0b_' in line 1, which is no int"),
        ("optimiser:\n  lr: !!int abc", "has 'abc' in line 2, which is no int"),
        ("optimiser: {lr: !!int ''}", "has '' in line 1, which is no int"),
        ("optimiser: {lr: !!bool abc}", "has 'abc' in line 1, which is no bool"),
        ("optimiser: {lr: !!timestamp abc}", "has 'abc' in line 1, which is no timestamp"),
        ("optimiser: &x\n  a: *x\n", "has an alias (*) inside of what it stands for"),
        ("optimiser: {? !!timestamp 2020-01-01 : 1}", "as a key; write a word"),
        ("? !!binary aGVsbG8=\n: 1\n", "has b'hello' as a key; write a word"),
        ("[" * 5000, "is nested too deep"),
    ],
)
def test_yaml_that_no_settings_can_be_read_from_is_a_sentence_in_a_file_and_on_the_command_line(
    tmp_path, text, says
):
    (tmp_path / "mine.yaml").write_text(text)
    for read in (
        lambda: load_experiment(str(tmp_path / "mine.yaml")),
        lambda: parse_assignments([f"student.x={text}"]),
    ):
        with pytest.raises(
            UserError, match=r"mine.yaml has|mine.yaml is|--set student.x "
        ) as caught:
            read()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_one_value_may_stand_in_several_places_and_be_added_to():
    """An alias and a merge are no repetition, and what many aliases share is looked at once."""
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\nd: *b\n"
    assert read_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 4, "y": 3},
        "d": {"x": 1, "y": 3},
    }
    doubled = "\n".join(["- &a0 []", *(f"- &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
    assert len(read_yaml(doubled)) == 60


def test_what_is_no_yaml_is_yaml_s_own_error():
    with pytest.raises(yaml.YAMLError):
        read_yaml("a: [1")
