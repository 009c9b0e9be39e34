import logging
import subprocess
import sys
import zipfile

import pytest

from beamclip.anchors.wordnet import (
    Excerpt,
    Synset,
    WordNetFiles,
    open_lexicon,
    open_vocabulary,
    readers,
)
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import read_table
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


def test_examples_are_not_part_of_a_definition(small, ids):
    assert small.synset(ids["machine"]).gloss == "a device"
    assert small.synset(ids["heron"]).gloss == 'grey or white wading bird (a "fisher")'


def test_the_parent_of_a_named_thing_is_what_it_is_an_instance_of(small, ids):
    poet = small.synset(ids["crane-poet"])
    assert (
        poet.instance and poet.parents == (ids["poet"],) and not small.synset(ids["poet"]).instance
    )


def test_lists_its_forms_without_the_license(small):
    assert {"crane", "hart_crane", "flea_market"} < set(small.forms()) and "" not in small.forms()


def test_counts_the_synsets_below(small, ids):
    assert (
        small.subtree_sizes[ids["entity"]] == len(ids)
        and small.subtree_sizes[ids["wader"]] == 3
        and small.subtree_sizes.get(ids["heron"], 1) == 1
    )


def test_a_zip_file_gives_the_same(wordnet_folder, ids):
    with zipfile.ZipFile(wordnet_folder.parent / "wordnet.zip", "w") as packed:
        for file in wordnet_folder.iterdir():
            packed.write(file, f"wordnet/{file.name}")
    zipped = WordNetFiles(zipfile.Path(wordnet_folder.parent / "wordnet.zip", "wordnet/"))
    assert zipped.senses("cranes") == WordNetFiles(wordnet_folder).senses("cranes") != ()


@pytest.mark.parametrize("version", ["3.1", "2.1"])
def test_another_version_is_refused(wordnet_folder, version):
    file = wordnet_folder / "data.noun"
    file.write_text(file.read_text().replace("WordNet 3.0", f"WordNet {version}"))
    with pytest.raises(
        UserError, match=f"holds WordNet {version}, whose synset ids are not ImageNet's"
    ):
        WordNetFiles(wordnet_folder)


@pytest.mark.parametrize("name", ["data.noun", "index.noun"])
def test_a_file_that_is_cut_short_is_refused(wordnet_folder, name):
    file = wordnet_folder / name
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{name} is cut short; install WordNet again"):
        WordNetFiles(wordnet_folder).senses("crane")


def test_a_damaged_line_is_refused(wordnet_folder, ids):
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
    assert [synset.id[1:] for synset in wordnet.senses("crane")] == offsets and len(offsets) == 5


def test_ids_are_imagenets(wordnet):
    assert (
        wordnet.synset("n02012849").lemmas == ("crane",)
        and "wading bird" in wordnet.synset("n02012849").gloss
    )
    assert wordnet.subtree_sizes["n00001740"] == 82115


# --- The excerpt that comes with beamclip ---


@pytest.fixture(scope="module")
def excerpt():
    return Excerpt()


def test_the_excerpt_holds_every_synset_of_the_image_data_sets_up_to_entity(excerpt):
    ids = {*tables.imagenet_1k(), *tables.imagenet_21k()} | {
        class_name.synset for class_name in open_vocabulary("lvis") if class_name.synset
    }
    ids |= {id for _, _, id in read_table("classes.tsv")}
    assert ids <= set(excerpt.all_synset_ids()) and len(ids) > 21841
    assert all("n00001740" in excerpt.ancestors(id) for id in ids)
    assert all(excerpt.synset(id).lemmas and excerpt.synset(id).gloss for id in ids)


def test_the_excerpt_knows_all_senses_of_their_names(excerpt):
    cranes = excerpt.senses("crane_(bird)")
    assert [synset.instance for synset in cranes] == [True, True, True, False, False] and cranes[
        4
    ].id == "n02012849"
    assert [synset.lemmas[0] for synset in excerpt.senses("mice")][:1] == ["mouse"] and len(
        excerpt.senses("mouse")
    ) == 4
    unknown = [
        class_name.name
        for class_name in open_vocabulary("lvis")
        if class_name.synset and not excerpt.senses(class_name.name)
    ]
    assert (
        len(unknown) == 11
    )  # `horse buggy`, which LVIS calls buggy.n.01: WordNet does not list it


def test_the_excerpt_agrees_with_wordnet(excerpt, wordnet):
    for id in excerpt.all_synset_ids():
        assert excerpt.synset(id) == wordnet.synset(id)
        assert excerpt.information_content(id) == wordnet.information_content(id)
    for form in excerpt.forms():
        assert excerpt.senses(form) == wordnet.senses(form) != ()
    assert all(
        set(singulars) <= set(wordnet.irregular_plurals[plural])
        for plural, singulars in excerpt.irregular_plurals.items()
    )


# --- Choosing a lexicon ---


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """Only files that a test puts under tmp_path are found."""
    for variable in ("WNSEARCHDIR", "WNHOME", "NLTK_DATA"):
        monkeypatch.delenv(variable, raising=False)
    usual_paths = readers._usual_paths
    monkeypatch.setattr(
        readers,
        "_usual_paths",
        lambda: (path for path in usual_paths() if path.is_relative_to(tmp_path)),
    )
    open_lexicon.cache_clear()
    yield
    open_lexicon.cache_clear()


@pytest.mark.usefixtures("nothing_installed")
def test_the_excerpt_is_opened_without_wordnet():
    lexicon = open_lexicon()
    assert isinstance(lexicon, Excerpt) and not lexicon.complete and open_lexicon() is lexicon


@pytest.mark.usefixtures("nothing_installed")
def test_a_variable_names_the_folder(monkeypatch, wordnet_folder):
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet_folder))
    lexicon = open_lexicon()
    assert isinstance(lexicon, WordNetFiles) and lexicon.complete and lexicon.senses("forklift")


@pytest.mark.usefixtures("nothing_installed")
def test_wordnets_home_has_it_in_dict(monkeypatch, wordnet_folder, tmp_path):
    wordnet_folder.rename(tmp_path / "dict")
    monkeypatch.setenv("WNHOME", str(tmp_path))
    assert open_lexicon().complete


@pytest.mark.usefixtures("nothing_installed")
def test_nltks_data_is_found_unpacked_or_not(monkeypatch, wordnet_folder, tmp_path):
    corpora = tmp_path / "nltk_data" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as packed:
        for file in wordnet_folder.iterdir():
            packed.write(file, f"wordnet/{file.name}")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk_data"))
    assert open_lexicon().complete
    (corpora / "wordnet.zip").unlink()
    open_lexicon.cache_clear()
    assert not open_lexicon().complete
    wordnet_folder.rename(corpora / "wordnet")
    open_lexicon.cache_clear()
    assert open_lexicon().complete


@pytest.mark.usefixtures("nothing_installed")
def test_nltks_data_in_an_environment_is_found(monkeypatch, wordnet_folder, tmp_path):
    (tmp_path / "share/nltk_data/corpora").mkdir(parents=True)
    wordnet_folder.rename(tmp_path / "share/nltk_data/corpora/wordnet")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert open_lexicon().complete


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("variable", "inside"), [("WNSEARCHDIR", ""), ("WNHOME", "/dict")])
def test_a_variable_that_names_an_empty_folder_is_refused(monkeypatch, tmp_path, variable, inside):
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(
        UserError,
        match=rf"\${variable} says that WordNet is in {tmp_path}{inside}, "
        "which has no index.noun and data.noun; correct or unset it",
    ):
        open_lexicon()


def as_version_31(folder):
    file = folder / "data.noun"
    file.write_text(file.read_text().replace("WordNet 3.0", "WordNet 3.1"))


@pytest.mark.usefixtures("nothing_installed")
def test_a_variable_that_names_another_version_is_refused(monkeypatch, wordnet_folder):
    as_version_31(wordnet_folder)
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet_folder))
    with pytest.raises(
        UserError,
        match="holds WordNet 3.1, whose synset ids are not ImageNet's; beamclip needs WordNet 3.0",
    ):
        open_lexicon()


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("packed", [False, True])
def test_an_unusable_wordnet_that_no_variable_names_is_skipped_with_a_warning(
    monkeypatch, wordnet_folder, tmp_path, caplog, packed
):
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    if packed:
        (corpora / "wordnet.zip").write_bytes(b"half a download")
    else:
        as_version_31(wordnet_folder)
        wordnet_folder.rename(corpora / "wordnet")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert not open_lexicon().complete
    assert ("zip" if packed else "WordNet 3.1") in caplog.text and "skipped" in caplog.text
