"""Rebuild this package's tables from their sources. Only developers of beamclip need it.

    python -m beamclip.anchors.wordnet.build_tables
        writes data/wordnet.tsv.gz, from WordNet 3.0's own files
    python -m beamclip.anchors.wordnet.build_tables --lvis lvis_v1_val.json
        writes data/lvis.tsv, from the annotations of LVIS v1

The same WordNet, timm and open_clip give the same bytes (before compression, which differs between
versions of zlib).
"""

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import read_table
from beamclip.anchors.wordnet.lemmatize import base_forms
from beamclip.anchors.wordnet.lexicon import HOW_TO_INSTALL, Synset
from beamclip.anchors.wordnet.readers import EXCERPT_FILE, WordNetFiles, open_lexicon
from beamclip.anchors.wordnet.vocabularies import imagenet_1k, lvis
from beamclip.config import UserError

DATA = Path(__file__).parent / "data"

_HEADER = """\
# An excerpt of WordNet 3.0, Copyright 2006 by Princeton University, all rights reserved: \
see WORDNET-LICENSE.
# Made by beamclip.anchors.wordnet.build_tables; \
beamclip.anchors.wordnet.readers describes the format.
"""
_LVIS_HEADER = """\
# Categories of LVIS v1 (Gupta, Dollar, Girshick: LVIS, CVPR 2019), CC BY 4.0: \
https://creativecommons.org/licenses/by/4.0
# In the order of their ids. Changes: names in words, two misspelled ones corrected, \
synsets as WordNet 3.0 ids, no annotations.
"""
_CORRECTED_NAMES = {
    "monitor (computer equipment) computer monitor": "monitor (computer equipment)",
    "speaker (stero equipment)": "speaker (stereo equipment)",
}


def excerpt_text(wordnet: WordNetFiles) -> str:
    """Return the text of the excerpt, in the format described in `readers`."""
    all_forms: set[str] = set()
    for name in _excerpt_names():
        all_forms.update(
            base_forms(name, wordnet.irregular_plurals, lambda form: bool(wordnet.synset_ids(form)))
        )
    ids_of_form = {form: wordnet.synset_ids(form) for form in sorted(all_forms)}

    synset_ids: set[str] = set()
    for id in _excerpt_ids():
        synset_ids |= wordnet.ancestors(id)
    for ids in ids_of_form.values():
        for id in ids:
            synset_ids |= wordnet.ancestors(id)

    lines = []
    for id in sorted(synset_ids):
        lines.append(_synset_line(wordnet.synset(id), wordnet.subtree_sizes.get(id, 1)))
    for form, ids in ids_of_form.items():
        lines.append(f"F\t{form}\t{' '.join(ids)}")
    for plural, singulars in sorted(wordnet.irregular_plurals.items()):
        listed = [singular for singular in singulars if singular in ids_of_form]
        if listed:
            lines.append(f"X\t{plural}\t{' '.join(listed)}")
    return _HEADER + "\n".join(lines) + "\n"


def lvis_table(categories: Iterable[dict[str, Any]], wordnet: WordNetFiles) -> str:
    """Return the text of lvis.tsv.

    Args:
        categories: LVIS's categories, with `id`, `name` and `synset`. A synset such as
            `aerosol.n.02` is the second sense of the noun "aerosol".
        wordnet: where synsets are looked up.
    """
    lines = []
    for category in sorted(categories, key=lambda category: int(category["id"])):
        name = category["name"].replace("_", " ")
        lemma, _, sense_number = category["synset"].rsplit(".", 2)
        ids = wordnet.synset_ids(lemma)
        id = ids[int(sense_number) - 1] if ids else ""
        lines.append(f"{_CORRECTED_NAMES.get(name, name)}\t{id}")
    return _LVIS_HEADER + "\n".join(lines) + "\n"


def _synset_line(synset: Synset, subtree_size: int) -> str:
    """Return a synset's line in the excerpt.

    A subtree size of 1 is left empty, as are lemmas and definition if timm's tables have them.
    """
    timm_has_lemmas = tables.lemmas().get(synset.id) == synset.lemmas
    timm_has_gloss = tables.definitions().get(synset.id) == synset.gloss
    fields = (
        "S",
        synset.id,
        " ".join(synset.parents),
        "i" if synset.instance else "",
        "" if subtree_size == 1 else str(subtree_size),
        "" if timm_has_lemmas else "|".join(synset.lemmas),
        "" if timm_has_gloss else synset.gloss,
    )
    return "\t".join(fields)


def _excerpt_names() -> Iterator[str]:
    """Yield all names whose senses are in the excerpt."""
    for class_name in (*imagenet_1k(), *lvis()):
        yield class_name.name
    for id in tables.imagenet_1k():
        yield from tables.lemmas()[id]
    for _, spellings, _ in read_table("classes.tsv"):
        yield from spellings.split("|")


def _excerpt_ids() -> Iterator[str]:
    """Yield the ids of the synsets that are in the excerpt whatever the names of classes are."""
    yield from tables.lemmas()
    for class_name in lvis():
        if class_name.synset:
            yield class_name.synset
    for _, _, id in read_table("classes.tsv"):
        yield id


def main() -> None:
    """Write one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lvis", type=Path, help="JSON with LVIS's categories")
    options = parser.parse_args()
    wordnet = open_lexicon()
    if not isinstance(wordnet, WordNetFiles):
        raise UserError(f"the tables are made from all of WordNet; {HOW_TO_INSTALL}")
    if options.lvis:
        annotations = json.loads(options.lvis.read_text(encoding="utf-8"))
        categories = annotations["categories"] if isinstance(annotations, dict) else annotations
        (DATA / "lvis.tsv").write_text(lvis_table(categories, wordnet), encoding="utf-8")
    else:
        text = excerpt_text(wordnet).encode("utf-8")
        # mtime=0: gzip would otherwise write the current time into the file.
        (DATA / EXCERPT_FILE).write_bytes(gzip.compress(text, compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
