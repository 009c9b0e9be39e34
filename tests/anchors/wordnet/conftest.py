"""A WordNet of fifteen nouns in the real format, and the real WordNet if it is installed."""

from pathlib import Path

import pytest

from beamclip.anchors.wordnet import WordNetFiles, open_lexicon

# word(s), parents ("@" a kind of, "@i" an instance of), gloss
NOUN_SYNSETS = {
    "entity": (["entity"], [], "that which exists"),
    "physical": (["physical_entity"], [("@", "entity")], "an entity that has physical existence"),
    "abstraction": (["abstraction"], [("@", "entity")], "a general concept"),
    "machine": (
        ["machine"],
        [("@", "physical")],
        'a device; "a machine for everything"; "another example"',
    ),
    "crane-machine": (["crane"], [("@", "machine")], "lifts and moves heavy objects"),
    "forklift": (["forklift"], [("@", "machine")], "a small industrial vehicle"),
    "bird": (["bird"], [("@", "physical")], "warm-blooded egg-laying vertebrates"),
    "wader": (["wader", "wading_bird"], [("@", "bird")], "any of many long-legged birds"),
    "crane-bird": (["crane"], [("@", "wader")], "large long-necked wading bird"),
    "heron": (["heron"], [("@", "wader")], 'grey or white wading bird (a "fisher")'),
    "poet": (["poet"], [("@", "physical")], "a writer of poems"),
    "crane-poet": (["Crane", "Hart_Crane"], [("@i", "poet")], "United States poet (1899-1932)"),
    "axe": (["axe"], [("@", "machine")], "an edge tool"),
    "axis": (["axis"], [("@", "abstraction")], "a straight line"),
    "flea-market": (["flea_market"], [("@", "abstraction")], "an open-air market"),
}
SENSES = {"crane": ["crane-poet", "crane-machine", "crane-bird"]}  # most frequent first
HEADER = (
    "  1 This is not WordNet, but has its format.  \n"
    "  2 WordNet {version} Copyright 2006 by Princeton University.  \n"
)


def write_wordnet(folder: Path, version: str = "3.0") -> dict[str, str]:
    """Write index.noun, data.noun and noun.exc. Returns the id of each of `NOUN_SYNSETS`."""
    offsets = dict.fromkeys(NOUN_SYNSETS, 0)
    # Offsets all have the same length, so those counted in the first round are correct in the
    # second.
    for _ in range(2):
        text = HEADER.format(version=version)
        for key in NOUN_SYNSETS:
            offsets[key] = len(text)
            text += data_line(key, offsets)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.noun").write_text(text)
    (folder / "index.noun").write_text(HEADER.format(version=version) + index_lines(offsets))
    (folder / "noun.exc").write_text("axes axe axis\ngeese goose\n")
    return {key: f"n{offset:08d}" for key, offset in offsets.items()}


def data_line(key: str, offsets: dict[str, int]) -> str:
    words, parents, gloss = NOUN_SYNSETS[key]
    # A derivation (+) among the pointers is not a parent.
    pointers = [
        ("+", offsets[key], "v"),
        *((symbol, offsets[parent], "n") for symbol, parent in parents),
    ]
    fields = " ".join(f"{symbol} {offset:08d} {kind} 0000" for symbol, offset, kind in pointers)
    lemmas = " ".join(f"{word} 0" for word in words)
    counted_lemmas = f"{len(words):02x} {lemmas}"
    counted_pointers = f"{len(pointers):03d} {fields}"
    return f"{offsets[key]:08d} 06 n {counted_lemmas} {counted_pointers} | {gloss}  \n"


def index_lines(offsets: dict[str, int]) -> str:
    listed: dict[str, list[str]] = {form: list(keys) for form, keys in SENSES.items()}
    for key, (words, _, _) in NOUN_SYNSETS.items():
        for word in words:
            if key not in listed.setdefault(word.lower(), []):
                listed[word.lower()].append(key)
    lines = []
    for form, keys in sorted(listed.items()):
        count = len(keys)
        ids = " ".join(f"{offsets[key]:08d}" for key in keys)
        lines.append(f"{form} n {count} 2 @ + {count} 1 {ids}  \n")
    return "".join(lines)


@pytest.fixture
def wordnet_folder(tmp_path):
    """A folder with the small WordNet."""
    write_wordnet(tmp_path / "wordnet")
    return tmp_path / "wordnet"


@pytest.fixture
def ids(tmp_path):
    """The ids of the small WordNet's nouns."""
    return write_wordnet(tmp_path / "wordnet")


@pytest.fixture
def small(wordnet_folder):
    """The small WordNet as a lexicon."""
    return WordNetFiles(wordnet_folder)


@pytest.fixture(scope="session")
def wordnet():
    """The real WordNet."""
    lexicon = open_lexicon()
    if not isinstance(lexicon, WordNetFiles):
        pytest.skip("needs WordNet 3.0 on this machine")
    return lexicon
