import gzip
import json
import sys
from importlib import resources

import pytest

from beamclip.anchors.wordnet import build_tables as make
from beamclip.anchors.wordnet.readers import FILE

DATA = resources.files("beamclip.anchors.wordnet") / "data"


def test_makes_the_excerpt_again(wordnet):
    assert make.excerpt(wordnet) == gzip.decompress((DATA / FILE).read_bytes()).decode()


def test_the_excerpt_is_small():
    assert len((DATA / FILE).read_bytes()) < 500_000


def test_puts_lvis_into_words_and_ids(small, ids):
    categories = [
        {"id": 3, "name": "stop_sign", "synset": "stop_sign.n.01"},
        {"id": 2, "name": "crane_(bird)", "synset": "crane.n.03"},
        {"id": 1, "name": "speaker_(stero_equipment)", "synset": "machine.n.01"},
    ]
    rows = [
        line for line in make.lvis_table(categories, small).splitlines() if not line.startswith("#")
    ]
    assert rows == [
        f"speaker (stereo equipment)\t{ids['machine']}",
        f"crane (bird)\t{ids['crane-bird']}",
        "stop sign\t",
    ]


def test_writes_both_files(wordnet, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "DATA", tmp_path)
    (tmp_path / "lvis.json").write_text(
        json.dumps({"categories": [{"id": 1, "name": "crane", "synset": "crane.n.05"}]})
    )
    monkeypatch.setattr(sys, "argv", ["make", "--lvis", str(tmp_path / "lvis.json")])
    make.main()
    assert (tmp_path / "lvis.tsv").read_text().splitlines()[-1] == "crane\tn02012849"
    monkeypatch.setattr(sys, "argv", ["make"])
    make.main()
    assert gzip.decompress((tmp_path / FILE).read_bytes()) == gzip.decompress(
        (DATA / FILE).read_bytes()
    )


@pytest.mark.parametrize("word", ["Princeton University", "AS IS", "WordNet 3.0 Copyright 2006"])
def test_wordnets_licence_lies_beside_it(word):
    assert word in (DATA / "WORDNET-LICENSE").read_text()


def test_lvis_says_whose_it_is():
    header = (DATA / "lvis.tsv").read_text().splitlines()[0]
    assert "CC BY 4.0" in header and "Gupta" in header
