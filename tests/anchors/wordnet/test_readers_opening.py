import logging
import sys
import zipfile

import pytest

from beamclip.anchors.wordnet import Excerpt, WordNetFiles, open_lexicon
from beamclip.anchors.wordnet import readers as opening
from beamclip.config import UserError


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Only what a test puts under tmp_path is found."""
    for variable in ("WNSEARCHDIR", "WNHOME", "NLTK_DATA"):
        monkeypatch.delenv(variable, raising=False)
    places = opening._usual_places
    monkeypatch.setattr(
        opening,
        "_usual_places",
        lambda: (place for place in places() if place.is_relative_to(tmp_path)),
    )
    open_lexicon.cache_clear()
    yield
    open_lexicon.cache_clear()


def test_without_wordnet_there_is_the_excerpt():
    lexicon = open_lexicon()
    assert isinstance(lexicon, Excerpt) and not lexicon.complete and open_lexicon() is lexicon


def test_a_variable_names_the_folder(monkeypatch, wordnet_folder):
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet_folder))
    lexicon = open_lexicon()
    assert isinstance(lexicon, WordNetFiles) and lexicon.complete and lexicon.senses("forklift")


def test_wordnets_home_has_it_in_dict(monkeypatch, wordnet_folder, tmp_path):
    wordnet_folder.rename(tmp_path / "dict")
    monkeypatch.setenv("WNHOME", str(tmp_path))
    assert open_lexicon().complete


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


def test_nltks_data_in_an_environment_is_found(monkeypatch, wordnet_folder, tmp_path):
    (tmp_path / "share/nltk_data/corpora").mkdir(parents=True)
    wordnet_folder.rename(tmp_path / "share/nltk_data/corpora/wordnet")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert open_lexicon().complete


@pytest.mark.parametrize(("variable", "inside"), [("WNSEARCHDIR", ""), ("WNHOME", "/dict")])
def test_a_variable_that_names_nothing_gets_a_sentence(monkeypatch, tmp_path, variable, inside):
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(
        UserError,
        match=rf"\${variable} says that WordNet is in {tmp_path}{inside}, which has no index.noun and data.noun",
    ):
        open_lexicon()


def as_version_31(folder):
    file = folder / "data.noun"
    file.write_text(file.read_text().replace("WordNet 3.0", "WordNet 3.1"))


def test_a_variable_that_names_another_version_gets_a_sentence(monkeypatch, wordnet_folder):
    as_version_31(wordnet_folder)
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet_folder))
    with pytest.raises(
        UserError,
        match="holds WordNet 3.1, whose synset ids are not ImageNet's; beamclip needs WordNet 3.0",
    ):
        open_lexicon()


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_merely_found_and_unusable_is_passed_over_with_a_warning(
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
    assert ("zip" if packed else "WordNet 3.1") in caplog.text and "passed over" in caplog.text
