"""Makes the tables of this package again from their sources; whoever only uses beamclip never needs it.

    python -m beamclip.anchors.wordnet.build_tables                             data/wordnet.tsv.gz, from WordNet 3.0's own files
    python -m beamclip.anchors.wordnet.build_tables --lvis lvis_v1_val.json     data/lvis.tsv, from the annotations of LVIS v1

The same WordNet, timm and open_clip give the same bytes (before compression; zlib's differ between versions).
"""

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import table_rows
from beamclip.anchors.wordnet.lexicon import HOW_TO_INSTALL, Synset, base_forms
from beamclip.anchors.wordnet.readers import FILE, WordNetFiles, open_lexicon
from beamclip.anchors.wordnet.vocabularies import imagenet_1k, lvis
from beamclip.config import UserError

DATA = Path(__file__).parent / "data"

_HEADER = (
    "# An excerpt of WordNet 3.0, Copyright 2006 by Princeton University, all rights reserved: see WORDNET-LICENSE.",
    "# Made by beamclip.anchors.wordnet.build_tables; beamclip.anchors.wordnet.readers describes the format.",
)
_LVIS_HEADER = (
    "# Categories of LVIS v1 (Gupta, Dollar, Girshick: LVIS, CVPR 2019), CC BY 4.0: https://creativecommons.org/licenses/by/4.0",
    "# In the order of their ids. Changes: names in words, two misspelled ones mended, synsets as WordNet 3.0 ids, no annotations.",
)
_MENDED = {
    "monitor (computer equipment) computer monitor": "monitor (computer equipment)",
    "speaker (stero equipment)": "speaker (stereo equipment)",
}


def excerpt(wordnet: WordNetFiles) -> str:
    """The text of the excerpt: see `beamclip.anchors.wordnet.readers`."""
    forms = sorted(
        {
            form
            for name in _names()
            for form in base_forms(name, wordnet.exceptions, lambda form: bool(wordnet.ids(form)))
        }
    )
    senses = {form: wordnet.ids(form) for form in forms}
    wanted = {*_ids(), *(id for ids in senses.values() for id in ids)}
    synsets = sorted(frozenset().union(*map(wordnet.ancestors, wanted)))
    plurals = {
        plural: [one for one in singulars if one in senses]
        for plural, singulars in sorted(wordnet.exceptions.items())
    }
    lines = [
        *_HEADER,
        *(_synset_line(wordnet.synset(id), wordnet.below.get(id, 1)) for id in synsets),
        *(f"F\t{form}\t{' '.join(ids)}" for form, ids in senses.items()),
        *(
            f"X\t{plural}\t{' '.join(singulars)}"
            for plural, singulars in plurals.items()
            if singulars
        ),
    ]
    return "\n".join(lines) + "\n"


def lvis_table(categories: Iterable[dict[str, Any]], wordnet: WordNetFiles) -> str:
    """The text of lvis.tsv. categories: LVIS's own, with `id`, `name` and a `synset` such as `aerosol.n.02`: the second sense of a noun."""
    rows = []
    for category in sorted(categories, key=lambda one: int(one["id"])):
        lemma, _, number = category["synset"].rsplit(".", 2)
        ids = wordnet.ids(lemma)
        name = category["name"].replace("_", " ")
        rows.append(f"{_MENDED.get(name, name)}\t{ids[int(number) - 1] if ids else ''}")
    return "\n".join((*_LVIS_HEADER, *rows)) + "\n"


def _synset_line(synset: Synset, below: int) -> str:
    same_words = tables.lemmas().get(synset.id) == synset.lemmas
    same_gloss = tables.definitions().get(synset.id) == synset.gloss
    words, gloss = "" if same_words else "|".join(synset.lemmas), "" if same_gloss else synset.gloss
    count = "" if below == 1 else str(below)
    return "\t".join(
        (
            "S",
            synset.id,
            " ".join(synset.parents),
            "i" if synset.instance else "",
            count,
            words,
            gloss,
        )
    )


def _names() -> Iterator[str]:
    """All names whose senses belong into the excerpt."""
    for one in (*imagenet_1k(), *lvis()):
        yield one.name
    for id in tables.imagenet_1k():
        yield from tables.lemmas()[id]
    for _, spellings, _ in table_rows("classes.tsv"):
        yield from spellings.split("|")


def _ids() -> Iterator[str]:
    """All synsets that belong into the excerpt, whatever their names."""
    yield from tables.lemmas()
    yield from (one.synset for one in lvis() if one.synset)
    yield from (id for _, _, id in table_rows("classes.tsv"))


def main() -> None:
    """Write one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lvis", type=Path, help="JSON with LVIS's categories")
    options = parser.parse_args()
    wordnet = open_lexicon()
    if not isinstance(wordnet, WordNetFiles):
        raise UserError(f"the tables are made from the whole of WordNet; {HOW_TO_INSTALL}")
    if options.lvis:
        found = json.loads(options.lvis.read_text(encoding="utf-8"))
        categories = found["categories"] if isinstance(found, dict) else found
        (DATA / "lvis.tsv").write_text(lvis_table(categories, wordnet), encoding="utf-8")
    else:
        (DATA / FILE).write_bytes(
            gzip.compress(excerpt(wordnet).encode("utf-8"), compresslevel=9, mtime=0)
        )


if __name__ == "__main__":
    main()
