import gzip
import json
import sys
from importlib import resources

import pytest

from beamclip.anchors.wordnet import build_tables
from beamclip.anchors.wordnet.readers import EXCERPT_FILE

DATA = resources.files("beamclip.anchors.wordnet") / "data"


def test_rebuilds_the_excerpt(wordnet):
    assert (
        build_tables.excerpt_text(wordnet)
        == gzip.decompress((DATA / EXCERPT_FILE).read_bytes()).decode()
    )


def test_the_excerpt_is_small():
    assert len((DATA / EXCERPT_FILE).read_bytes()) < 500_000


def test_puts_lvis_into_words_and_ids(small, ids):
    categories = [
        {"id": 3, "name": "stop_sign", "synset": "stop_sign.n.01"},
        {"id": 2, "name": "crane_(bird)", "synset": "crane.n.03"},
        {"id": 1, "name": "speaker_(stero_equipment)", "synset": "machine.n.01"},
    ]
    rows = [
        line
        for line in build_tables.lvis_table(categories, small).splitlines()
        if not line.startswith("#")
    ]
    assert rows == [
        f"speaker (stereo equipment)\t{ids['machine']}",
        f"crane (bird)\t{ids['crane-bird']}",
        "stop sign\t",
    ]


def test_writes_both_files(wordnet, tmp_path, monkeypatch):
    monkeypatch.setattr(build_tables, "DATA", tmp_path)
    (tmp_path / "lvis.json").write_text(
        json.dumps({"categories": [{"id": 1, "name": "crane", "synset": "crane.n.05"}]})
    )
    monkeypatch.setattr(sys, "argv", ["build_tables", "--lvis", str(tmp_path / "lvis.json")])
    build_tables.main()
    assert (tmp_path / "lvis.tsv").read_text().splitlines()[-1] == "crane\tn02012849"
    monkeypatch.setattr(sys, "argv", ["build_tables"])
    build_tables.main()
    assert gzip.decompress((tmp_path / EXCERPT_FILE).read_bytes()) == gzip.decompress(
        (DATA / EXCERPT_FILE).read_bytes()
    )


@pytest.mark.parametrize("word", ["Princeton University", "AS IS", "WordNet 3.0 Copyright 2006"])
def test_wordnets_license_comes_with_it(word):
    assert word in (DATA / "WORDNET-LICENSE").read_text()


def test_lvis_names_its_authors_and_license():
    header = (DATA / "lvis.tsv").read_text().splitlines()[0]
    assert "CC BY 4.0" in header and "Gupta" in header
