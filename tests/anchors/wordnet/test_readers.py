import subprocess
import zipfile

import pytest

from beamclip.anchors.wordnet import Synset, WordNetFiles
from beamclip.config import UserError


def test_reads_a_synset(small, ids):
    expected = Synset(
        ids["wader"],
        ("wader", "wading bird"),
        "any of many long-legged birds",
        (ids["bird"],),
        False,
    )
    assert small.synset(ids["wader"]) == expected


def test_examples_are_no_part_of_a_definition(small, ids):
    assert small.synset(ids["machine"]).gloss == "a device"
    assert small.synset(ids["heron"]).gloss == 'grey or white wading bird (a "fisher")'


def test_a_named_thing_has_what_it_is_an_instance_of_as_parent(small, ids):
    poet = small.synset(ids["crane-poet"])
    assert (
        poet.instance and poet.parents == (ids["poet"],) and not small.synset(ids["poet"]).instance
    )


def test_lists_its_forms_without_the_licence(small):
    assert {"crane", "hart_crane", "flea_market"} < set(small.forms()) and "" not in small.forms()


def test_counts_what_lies_below(small, ids):
    assert (
        small.below[ids["entity"]] == len(ids)
        and small.below[ids["wader"]] == 3
        and small.below.get(ids["heron"], 1) == 1
    )


def test_the_same_from_a_zip_file(wordnet_folder, ids):
    with zipfile.ZipFile(wordnet_folder.parent / "wordnet.zip", "w") as packed:
        for file in wordnet_folder.iterdir():
            packed.write(file, f"wordnet/{file.name}")
    zipped = WordNetFiles(zipfile.Path(wordnet_folder.parent / "wordnet.zip", "wordnet/"))
    assert zipped.senses("cranes") == WordNetFiles(wordnet_folder).senses("cranes") != ()


@pytest.mark.parametrize("version", ["3.1", "2.1"])
def test_another_version_gets_a_sentence(wordnet_folder, version):
    file = wordnet_folder / "data.noun"
    file.write_text(file.read_text().replace("WordNet 3.0", f"WordNet {version}"))
    with pytest.raises(
        UserError, match=f"holds WordNet {version}, whose synset ids are not ImageNet's"
    ):
        WordNetFiles(wordnet_folder)


@pytest.mark.parametrize("name", ["data.noun", "index.noun"])
def test_a_file_that_is_cut_short_gets_a_sentence(wordnet_folder, name):
    file = wordnet_folder / name
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{name} is cut short; install WordNet again"):
        WordNetFiles(wordnet_folder).senses("crane")


def test_a_damaged_line_gets_a_sentence(wordnet_folder, ids):
    file = wordnet_folder / "data.noun"
    file.write_text(file.read_text().replace("06 n 02 wader", "06 n 0z wader"))
    with pytest.raises(UserError, match=f"is damaged at {ids['wader']}"):
        WordNetFiles(wordnet_folder).synset(ids["wader"])


def test_without_irregular_plurals_the_rest_works(wordnet_folder):
    (wordnet_folder / "noun.exc").unlink()
    small = WordNetFiles(wordnet_folder)
    assert small.senses("axes")[0].lemmas == ("axe",)  # by rule, s -> ""


def test_agrees_with_wordnets_own_program(wordnet):
    """`wn crane -synsn` prints every sense with its offset."""
    try:
        printed = subprocess.run(
            ["wn", "crane", "-synsn", "-o"], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        pytest.skip("needs WordNet's own program")
    offsets = [line[1:9] for line in printed.splitlines() if line.startswith("{")]
    assert [one.id[1:] for one in wordnet.senses("crane")] == offsets and len(offsets) == 5


def test_ids_are_imagenets(wordnet):
    assert (
        wordnet.synset("n02012849").lemmas == ("crane",)
        and "wading bird" in wordnet.synset("n02012849").gloss
    )
    assert wordnet.below["n00001740"] == 82115
