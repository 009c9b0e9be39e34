"""`beamclip anchors` from the command line to its files, on the tiny preset."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

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
    """`anchors("--explain", …)` returns what the command prints.

    Asserts that it exits with 0 and encodes no image.
    """
    monkeypatch.setenv("COLUMNS", "100")

    def call(*options):
        before = images_encoded()
        with pytest.raises(SystemExit) as caught:
            main(
                ["anchors", "--preset", str(preset), "--storage", str(storage), *map(str, options)]
            )
        printed = capsys.readouterr()
        assert (caught.value.code, images_encoded()) == (0, before), printed.err
        return printed.out

    return call


@pytest.fixture
def named(tmp_path):
    """`named("crane", …)`: options that give the four classes these names.

    Label order: blue, green, red, yellow.
    """

    def write(*lines):
        (tmp_path / "names.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
        return "--set", f"data.class_names={tmp_path / 'names.txt'}"

    return write


@pytest.fixture
def asked(monkeypatch):
    """The prompts that the text tower encodes."""
    texts, encode = [], Teacher.encode_texts
    monkeypatch.setattr(
        Teacher, "encode_texts", lambda self, some: texts.extend(some) or encode(self, some)
    )
    return texts


def row(printed, title):
    """Return the value next to a title in the first table."""
    return re.search(rf"│ {re.escape(title)} +│ (.*?) +│", printed).group(1)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_it_describes_the_anchors(anchors, storage, monkeypatch):
    complete = SimpleNamespace(complete=True)
    monkeypatch.setattr("beamclip.cli.anchors.open_lexicon", lambda: complete)
    printed = anchors("--set", "anchors.prompt_set=openai_7")
    assert "Anchors of tiny: openai_7" in printed
    assert (row(printed, "anchors"), row(printed, "prompts")) == ("4", "28, 7 a class")
    assert row(printed, "sense unknown") == "4 classes: only their names are used"
    assert (row(printed, "sense ambiguous"), row(printed, "shortened")) == (
        "0 classes (see --explain)",
        "none",
    )
    assert row(printed, "prompts contain").startswith("names only: senses and pins change nothing")
    assert row(printed, "same anchor") == "0 pairs" and re.fullmatch(
        r"\w+ – \w+  -?0\.\d{3}", row(printed, "nearest")
    )
    assert (
        "zero-shot on val: not known until the teacher has encoded val (beamclip embed)" in printed
    )
    (store,) = (storage / "stores" / "anchors").glob("*/manifest.json")
    assert row(printed, "hash") == store.parent.name == read_json(store)["key"]
    assert f"{storage}/anchors/{store.parent.name}" in printed.replace("\n", "")
    assert "prompts contain" not in anchors("--set", "anchors.prompt_set=hypernym")


def test_without_wordnet_it_says_how_to_know_more_senses(anchors, monkeypatch):
    incomplete = SimpleNamespace(complete=False)
    monkeypatch.setattr("beamclip.cli.anchors.open_lexicon", lambda: incomplete)
    unknown = row(anchors(), "sense unknown")
    assert unknown.startswith("4 classes: only their names are used; more senses may be known")


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


def test_out_sets_the_folder_of_the_files(anchors, storage, tmp_path):
    anchors("--out", tmp_path / "here")
    (folder,) = (tmp_path / "here").iterdir()
    assert (
        sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        and not (storage / "anchors").exists()
    )


def test_a_second_call_encodes_nothing_and_prints_the_same(anchors, asked):
    options = ("--set", "anchors.prompt_set=ensemble")
    first = anchors(*options)
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 4 * 8
    asked.clear()
    assert anchors(*options) == first and asked == []


def test_explain_lists_the_senses_and_why_one_was_chosen(anchors, named):
    printed = anchors(*named("crane", "bass", "mouse\tn02330245", "forklift"), "--explain")
    crane, bass, mouse, forklift = re.split(
        r"\n(?=\w)", printed.partition("The data's own classes\n\n")[2]
    )[:4]
    assert (
        crane.startswith(f"crane: {MACHINE} lifts and moves heavy objects; ")
        and "(a type of lifting device)\n" in crane
    )
    assert "\n    why: fits the other classes best (0." in crane
    others = re.findall(r"\n    not (n\d{8}) \(0\.\d\d\) (\w+)", crane)
    assert len(others) == 4 and (BIRD, "large") in others and MACHINE not in dict(others)
    assert bass == "bass: its name alone\n    why: not a noun in the excerpt of WordNet"
    assert (
        mouse.startswith(f"mouse: {RODENT} any of numerous small rodents")
        and "\n    why: its own WordNet id\n    not n" in mouse
    )
    assert "\n    why: its only sense" in forklift
    assert (
        "1 of these senses were chosen because of the other classes "
        "(and of what the images show, once beamclip embed has encoded them)" in printed
    )
    assert f"  --set 'anchors.senses={{crane: {MACHINE}}}'\n" in printed


def test_explain_needs_no_teacher_and_makes_nothing(anchors, named, storage, monkeypatch):
    def load(self, config):
        raise AssertionError("a teacher is loaded")

    monkeypatch.setattr(PreparationContext, "teacher", load)
    names = named("crane", "bass", "mouse", "forklift")
    assert f"crane: {MACHINE}" in anchors(*names, "--explain", "--set", "teacher.model=demo")
    assert not storage.exists()


@pytest.mark.parametrize("option", ["--near=0.9", "--out=here"])
def test_explain_refuses_options_of_the_description(option, preset, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["anchors", "--preset", str(preset), "--explain", option])
    name = option.partition("=")[0]
    says = f"beamclip: {name} is about the description of the anchors, which --explain leaves out"
    assert caught.value.code == 2 and capsys.readouterr().err.startswith(says)


def test_the_description_counts_ambiguous_names(anchors, named):
    printed = anchors(*named("crane", "bass", "mouse\tn02330245", "forklift"))
    assert row(printed, "sense ambiguous") == "1 classes (see --explain)"


def test_the_suggested_pins_can_be_used_and_leave_nothing_to_suggest(anchors, named):
    names = named("crane", "heron", "mouse\tn02330245", "forklift")
    (line,) = re.findall(r"--set '(anchors.senses=.*)'\n", anchors(*names, "--explain"))
    printed = anchors(*names, "--explain", "--strict-senses", "--set", line)
    assert "why: pinned by anchors.senses" in printed and "pin them" not in printed


def test_explain_explains_before_strict_senses_refuses(named, preset, capsys):
    names = named("crane", "heron", "mouse\tn02330245", "forklift")
    with pytest.raises(SystemExit) as caught:
        main(["anchors", "--preset", str(preset), "--explain", "--strict-senses", *names])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and "class crane has " in printed.err
    assert "crane: " in printed.out and "anchors.senses=" in printed.out


def test_images_that_the_teacher_has_encoded_are_used_too(
    anchors, named, preset, storage, monkeypatch
):
    names = named("crane", "forklift", "red", "yellow")
    monkeypatch.setattr("beamclip.cli.anchors.teacher_zero_shot", lambda *_: (60.0, 40.0))
    prepare(tiny.experiment(preset, storage), PreparationContext(storage / "stores"))
    monkeypatch.setattr(
        "beamclip.preparation.sense_evidence.score_senses_by_images",
        lambda images, texts, share: [0.0, 0.0, 0.0, 0.1, 0.9],
    )
    printed = anchors(*names, "--explain")
    assert (
        f"crane: {MACHINE}" in printed
        and f"    but the images show {BIRD} large long-necked wading bird" in printed
    )
    assert (
        "1 of these senses were chosen because of what the images show. Check them, then pin them"
        in printed
        and f"anchors.senses={{crane: {BIRD}}}" in printed
    )
    monkeypatch.setattr("beamclip.cli.anchors.teacher_zero_shot", lambda *_: (60.0, 30.0))
    # A teacher near chance is not used.
    assert "but the images show" not in anchors(*names, "--explain")


def test_brackets_in_a_class_name_are_not_markup(anchors, named):
    names = named("[red]", "[/]", "bow [weapon]", "a_b")
    explained = anchors(*names, "--explain")
    for name in ("[red]: ", "[/]: ", "bow [weapon]: "):
        assert f"\n{name}" in f"\n{explained}"
    described = anchors(*names, "--near", "-1")
    assert "[red]" in described and "bow [weapon]" in described


def test_the_threshold_of_near_pairs_can_be_set(anchors, named):
    assert (
        row(anchors("--near", "-1"), "cosine ≥ -1"),
        row(anchors("--near", "1"), "cosine ≥ 1"),
    ) == ("6 pairs", "0 pairs")
    twins = anchors(*named("crane\tn02012849", "crane\tn03126707", "red", "yellow"), "--near", "1")
    assert row(twins, "cosine ≥ 1") == row(twins, "same anchor") == "1 pairs"


def test_a_vocabulary_is_described_in_addition_to_the_data_s_own_classes(anchors, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("crane\nforklift\nbow\tof ribbon\nmissile\tn03773504\nmissile\tn04008634\n")
    option = ("--set", f"anchors.vocabulary={words}")
    printed = anchors(*option, "--explain")
    own, vocabulary = printed.index("blue: its name alone"), printed.index(f"crane: {MACHINE}")
    assert vocabulary < own and "forklift:" not in printed  # of a vocabulary, only ambiguous names
    tables = anchors(*option).split("Anchors of tiny: plain")[1:]
    assert [row(one, "anchors") for one in tables] == ["5", "4"]
    assert row(tables[0], "same anchor") == "1 pairs" and "missile – missile  1.000" in tables[0]
    assert "zero-shot" in tables[1] and "zero-shot" not in tables[0]


def test_every_teacher_s_anchors_are_described(anchors, teacher_folder):
    printed = anchors(
        "--set", f"teacher.others=[{{model: 'local-dir:{teacher_folder}', prompt_set: openai_7}}]"
    )
    assert printed.index(f"Anchors of {teacher_folder.name}: openai_7") < printed.index(
        "Anchors of tiny: plain"
    )


def test_a_custom_prompt_set_keeps_its_name(anchors):
    """Colors have no hypernym here: both prompt sets make the same sentences and share a store."""
    assert "Anchors of tiny: plain" in anchors()
    assert "Anchors of tiny: hypernym" in anchors("--set", "anchors.prompt_set=hypernym")


def test_a_teacher_near_chance_gets_a_warning(anchors, named, preset, storage):
    prepare(tiny.experiment(preset, storage), PreparationContext(storage / "stores"))
    printed = anchors()
    assert (
        "zero-shot of tiny on val: 100.0 % (95 % interval from 80.6 %; chance 25.0 %)" in printed
        and "WARNING" not in printed
    )
    printed = anchors(*named("green one", "red one", "yellow one", "blue one"))
    assert "zero-shot of tiny on val: 0.0 % (95 % interval from 0.0 %; chance 25.0 %)" in printed
    assert "WARNING: that is near chance: tiny hardly knows these classes by these names" in printed


def test_only_anchors_are_built(anchors, storage):
    anchors()
    assert sorted(path.name for path in (storage / "stores").iterdir() if path.is_dir()) == [
        "anchors",
        "texts",
    ]
    assert not Path(storage, "mlflow.db").exists()
