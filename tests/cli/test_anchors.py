"""`beamclip anchors` from the command line to its files, on the tiny preset."""

import csv
import re
from pathlib import Path

import pytest
from helpers import tiny

from beamclip.cli.main import main
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.stores import read_json
from beamclip.teachers import Teacher
from beamclip.teachers.tower import images_encoded

pytestmark = [pytest.mark.usefixtures("excerpt"), pytest.mark.slow]
BIRD, MACHINE, RODENT = "n02012849", "n03126707", "n02330245"
FILES = ("heat_map.png", "nearest_pairs.csv", "senses.csv", "shortened.csv")


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def anchors(preset, storage, capsys, monkeypatch):
    """`anchors("--explain", …)`: what the command says; asserts that it went well and encoded no image."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*options):
        before = images_encoded()
        with pytest.raises(SystemExit) as caught:
            main(
                ["anchors", "--preset", str(preset), "--storage", str(storage), *map(str, options)]
            )
        said = capsys.readouterr()
        assert (caught.value.code, images_encoded()) == (0, before), said.err
        return said.out

    return call


@pytest.fixture
def named(tmp_path):
    """`named("crane", …)`: options that name the four classes so, in label order: blue, green, red, yellow."""

    def write(*lines):
        (tmp_path / "names.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
        return "--set", f"data.class_names={tmp_path / 'names.txt'}"

    return write


@pytest.fixture
def asked(monkeypatch):
    """The sentences that the text tower is asked for."""
    texts, encode = [], Teacher.encode_texts
    monkeypatch.setattr(
        Teacher, "encode_texts", lambda self, some: texts.extend(some) or encode(self, some)
    )
    return texts


def row(said, title):
    """What stands beside a title in the (first) table."""
    return re.search(rf"│ {re.escape(title)} +│ (.*?) +│", said).group(1)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_it_says_what_the_anchors_are_like(anchors, storage):
    said = anchors("--set", "anchors.prompt_set=openai_7")
    assert "Anchors of tiny: openai_7" in said
    assert (row(said, "anchors"), row(said, "prompts")) == ("4", "28, 7 a class")
    assert row(said, "sense unknown") == "4 classes go by their name alone"
    assert (row(said, "sense weighed"), row(said, "shortened")) == (
        "0 classes (--explain says how)",
        "none",
    )
    assert row(said, "prompts say").startswith("names only: no sense and no pin changes them")
    assert row(said, "the same anchor") == "0 pairs" and re.fullmatch(
        r"\w+ – \w+  -?0\.\d{3}", row(said, "nearest")
    )
    assert "zero-shot on val: not known before the teacher has seen it (beamclip embed)" in said
    (store,) = (storage / "stores" / "anchors").glob("*/manifest.json")
    assert row(said, "hash") == store.parent.name == read_json(store)["key"]
    assert f"{storage}/anchors/{store.parent.name}" in said.replace("\n", "")
    assert "prompts say" not in anchors("--set", "anchors.prompt_set=hypernym")


def test_it_writes_a_picture_and_tables(anchors, storage, named, tmp_path):
    anchors(
        *named("crane\tn02012849", "mouse\tof a computer", "qwrtz", "crane\tn03126707"),
        "--set",
        "anchors.prompt_set=gloss",
    )
    (folder,) = (storage / "anchors").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (folder / "heat_map.png").read_bytes()[:4] == b"\x89PNG"
    pairs = table(folder / "nearest_pairs.csv")
    assert (
        pairs[0] == ["class", "class", "cosine"]
        and len(pairs) == 7
        and float(pairs[1][2]) >= float(pairs[6][2])
    )
    senses = table(folder / "senses.csv")
    assert senses[0] == ["class", "synset", "meaning", "why"]
    assert [one[:2] for one in senses[1:]] == [
        ["crane", BIRD],
        ["mouse", ""],
        ["qwrtz", ""],
        ["crane", MACHINE],
    ]
    assert senses[2][2:] == ["of a computer", "the context given with it"] and senses[3][2] == ""
    cut = table(folder / "shortened.csv")
    assert cut[0] == ["prompt", "read as"] and [b for _, b in cut if "wading" in b] == [
        "a photo of a crane, large long-necked wading."
    ]


def test_files_go_where_they_are_wanted(anchors, storage, tmp_path):
    anchors("--out", tmp_path / "here")
    (folder,) = (tmp_path / "here").iterdir()
    assert (
        sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        and not (storage / "anchors").exists()
    )


def test_a_second_call_encodes_nothing_and_says_the_same(anchors, asked):
    options = ("--set", "anchors.prompt_set=ensemble")
    first = anchors(*options)
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 4 * 8
    asked.clear()
    assert anchors(*options) == first and asked == []


def test_explaining_says_which_senses_there_are_and_why_one_was_chosen(anchors, named):
    said = anchors(*named("crane", "bass", "mouse\tn02330245", "forklift"), "--explain")
    crane, bass, mouse, forklift = re.split(
        r"\n(?=\w)", said.partition("The data's own classes\n\n")[2]
    )[:4]
    assert (
        crane.startswith(f"crane: {MACHINE} lifts and moves heavy objects; ")
        and "(a type of lifting device)\n" in crane
    )
    assert "\n    why: fits the other classes best (0." in crane
    others = re.findall(r"\n    not (n\d{8}) \(0\.\d\d\) (\w+)", crane)
    assert len(others) == 4 and (BIRD, "large") in others and MACHINE not in dict(others)
    assert bass == "bass: its name alone\n    why: no noun that the excerpt of WordNet knows"
    assert (
        mouse.startswith(f"mouse: {RODENT} any of numerous small rodents")
        and "\n    why: its own WordNet id\n    not n" in mouse
    )
    assert "\n    why: its only sense" in forklift
    assert (
        "1 of them weighed by the other classes; once the teacher has seen the images (beamclip embed), they are asked too"
        in said
    )
    assert f"  --set 'anchors.senses={{crane: {MACHINE}}}'\n" in said
    assert row(said, "sense weighed") == "1 classes (--explain says how)"


def test_what_was_suggested_can_be_pinned_and_nothing_is_left_to_suggest(anchors, named):
    names = named("crane", "heron", "mouse\tn02330245", "forklift")
    (line,) = re.findall(r"--set '(anchors.senses=.*)'\n", anchors(*names, "--explain"))
    said = anchors(*names, "--explain", "--strict-senses", "--set", line)
    assert "why: pinned by anchors.senses" in said and "To pin them" not in said


def test_images_that_the_teacher_has_seen_are_asked_too(
    anchors, named, preset, storage, monkeypatch
):
    names = named("crane", "forklift", "red", "yellow")
    monkeypatch.setattr("beamclip.cli.anchors.teacher_zero_shot", lambda *_: (60.0, 40.0))
    prepare(tiny.experiment(preset, storage), PreparationContext(storage / "stores"))
    monkeypatch.setattr(
        "beamclip.preparation.sense_evidence.evidence_of_images",
        lambda images, texts, share: [0.0, 0.0, 0.0, 0.1, 0.9],
    )
    said = anchors(*names, "--explain")
    assert (
        f"crane: {MACHINE}" in said
        and f"    but the images speak for {BIRD} large long-necked wading bird" in said
    )
    assert (
        "1 of them weighed by what the images show. To pin them" in said
        and f"anchors.senses={{crane: {BIRD}}}" in said
    )
    monkeypatch.setattr("beamclip.cli.anchors.teacher_zero_shot", lambda *_: (60.0, 30.0))
    assert "the images speak for" not in anchors(
        *names, "--explain"
    )  # one that may as well guess is not asked


def test_a_name_is_no_markup(anchors, named):
    said = anchors(*named("[red]", "[/]", "bow [weapon]", "a_b"), "--explain", "--near", "-1")
    for name in ("[red]: ", "[/]: ", "bow [weapon]: "):
        assert f"\n{name}" in f"\n{said}"
    assert "[red]" in said.split("Anchors of")[1] and "bow [weapon]" in said.split("Anchors of")[1]


def test_how_near_is_near_can_be_chosen(anchors, named):
    assert (
        row(anchors("--near", "-1"), "cosine ≥ -1"),
        row(anchors("--near", "1"), "cosine ≥ 1"),
    ) == ("6 pairs", "0 pairs")
    twins = anchors(*named("crane\tn02012849", "crane\tn03126707", "red", "yellow"), "--near", "1")
    assert row(twins, "cosine ≥ 1") == row(twins, "the same anchor") == "1 pairs"


def test_a_vocabulary_is_told_of_beside_the_data_s_own_classes(anchors, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("crane\nforklift\nbow\tof ribbon\nmissile\tn03773504\nmissile\tn04008634\n")
    said = anchors("--set", f"anchors.vocabulary={words}", "--explain")
    own, vocabulary = said.index("blue: its name alone"), said.index(f"crane: {MACHINE}")
    assert vocabulary < own and "forklift:" not in said  # of a vocabulary, only what was weighed
    tables = said.split("Anchors of tiny: plain")[1:]
    assert [row(one, "anchors") for one in tables] == ["5", "4"]
    assert (
        row(tables[0], "the same anchor") == "1 pairs" and "missile – missile  1.000" in tables[0]
    )
    assert "zero-shot" in tables[1] and "zero-shot" not in tables[0]


def test_every_teacher_s_anchors_are_told_of(anchors, teacher_folder):
    said = anchors(
        "--set", f"teacher.others=[{{model: 'local-dir:{teacher_folder}', prompt_set: openai_7}}]"
    )
    assert said.index(f"Anchors of {teacher_folder.name}: openai_7") < said.index(
        "Anchors of tiny: plain"
    )


def test_the_set_is_called_what_the_user_calls_it(anchors):
    """Of colours nobody knows a hypernym here, so that both make the same sentences and share a bank."""
    assert "Anchors of tiny: plain" in anchors()
    assert "Anchors of tiny: hypernym" in anchors("--set", "anchors.prompt_set=hypernym")


def test_a_teacher_near_chance_is_warned_of_loudly(anchors, named, preset, storage):
    prepare(tiny.experiment(preset, storage), PreparationContext(storage / "stores"))
    said = anchors()
    assert (
        "zero-shot of tiny on val: 100.0 %, surely above 80.6 % (chance 25.0 %)" in said
        and "WARNING" not in said
    )
    said = anchors(*named("green one", "red one", "yellow one", "blue one"))
    assert "zero-shot of tiny on val: 0.0 %, surely above 0.0 % (chance 25.0 %)" in said
    assert "WARNING: that is near chance: tiny hardly knows these classes by these names" in said


def test_nothing_but_anchors_is_made(anchors, storage):
    anchors()
    assert sorted(path.name for path in (storage / "stores").iterdir() if path.is_dir()) == [
        "anchors",
        "texts",
    ]
    assert not Path(storage, "mlflow.db").exists()
