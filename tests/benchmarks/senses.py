"""Measure how often the right sense is chosen for an ambiguous class name.

    python tests/benchmarks/senses.py [--excerpt]

The right sense is known from elsewhere: for LVIS, the synset that its authors gave to each category
(with their remarks, as in `bow (weapon)`, and without them); for ImageNet-1K, the synset that
defines the class, whose first lemma is the name; for CIFAR, the table in the package. Only names
with several noun senses are counted, and only if the right sense is one of them.

The formula was chosen on LVIS, with a look at ImageNet-1K; CIFAR was tried afterwards. The names of
ImageNet-1K favor it: by construction, the name is the usual word for the right sense. "10 of LVIS"
is the mean over 100 random lists of ten categories. Known data sets are not recognized here, so
every name is decided by the formula.

The columns are ways to choose:

    first     WordNet's most frequent sense
    unnamed   the same without persons, places and other proper names
    alone     the formula for each name alone: usual word, physical thing, frequency
    chosen    the whole formula, with the other classes
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from beamclip.anchors.wordnet import (
    ClassName,
    Excerpt,
    Lexicon,
    Synset,
    open_lexicon,
    open_vocabulary,
)
from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import read_table
from beamclip.anchors.wordnet.disambiguate import sense_probabilities
from beamclip.anchors.wordnet.lemmatize import strip_qualifier

Options = Sequence[Sequence[Synset]]
Choice = Callable[[Sequence[str], Options, Lexicon], list[str]]
Score = tuple[int, int]


def first(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """Choose WordNet's most frequent sense."""
    return [of_class[0].id if of_class else "" for of_class in options]


def unnamed(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """Choose the most frequent sense that is not a proper name."""
    return first(names, possible(options), lexicon)


def alone(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """Choose for each class as if it were the only one."""
    return [
        chosen([name], [of_class], lexicon)[0]
        for name, of_class in zip(names, options, strict=True)
    ]


def chosen(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """Choose as `choose_senses` does for names without a pin or a known id."""
    candidates = possible(options)
    probabilities = sense_probabilities(names, candidates, lexicon)
    return [
        of_class[int(np.argmax(probability))].id if of_class else ""
        for of_class, probability in zip(candidates, probabilities, strict=True)
    ]


CHOICES: tuple[Choice, ...] = (first, unnamed, alone, chosen)


def possible(options: Options) -> Options:
    """Drop the senses that are proper names, unless a class has no others."""
    candidates = []
    for of_class in options:
        common = [synset for synset in of_class if not synset.instance]
        candidates.append(common or of_class)
    return candidates


def score(classes: Sequence[ClassName], choice: Choice, lexicon: Lexicon) -> Score:
    """Return how many names get the right sense, and how many names are counted."""
    names = [class_name.name for class_name in classes]
    options = [lexicon.senses(name) for name in names]
    synset_ids = choice(names, options, lexicon)
    right = 0
    counted = 0
    for class_name, of_class, synset_id in zip(classes, options, synset_ids, strict=True):
        if len(of_class) > 1 and class_name.synset in {synset.id for synset in of_class}:
            counted += 1
            right += synset_id == class_name.synset
    return right, counted


def known_classes(title: str) -> list[ClassName]:
    """Return the classes of a data set from the table in the package."""
    return [
        ClassName(spellings.split("|")[0], synset_id)
        for data_set, spellings, synset_id in read_table("classes.tsv")
        if data_set == title
    ]


def class_lists() -> dict[str, list[list[ClassName]]]:
    """Return the class lists of each row of the table, by title: one, or 100 random ones."""
    lvis = list(open_vocabulary("lvis"))
    bare = [ClassName(strip_qualifier(category.name), category.synset) for category in lvis]
    lemmas = tables.lemmas()
    imagenet = [ClassName(lemmas[synset_id][0], synset_id) for synset_id in tables.imagenet_1k()]
    lists = {"LVIS, with remarks": [lvis], "LVIS": [bare], "ImageNet-1K": [imagenet]}
    for title in ("CIFAR-100", "CIFAR-10"):
        lists[title] = [known_classes(title)]
    generator = random.Random(0)
    for size in (10, 50, 200):
        lists[f"{size} of LVIS"] = [generator.sample(bare, size) for _ in range(100)]
        lists[f"{size} of ImageNet-1K"] = [generator.sample(imagenet, size) for _ in range(100)]
    return lists


def main() -> None:
    """Score every way to choose on every list and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--excerpt",
        action="store_true",
        help="use the package's excerpt even if WordNet is installed",
    )
    lexicon = Excerpt() if parser.parse_args().excerpt else open_lexicon()
    columns = "".join(f"{choice.__name__:>9}" for choice in CHOICES)
    print(f"{'':22}{'counted':>9}{columns}{'seconds':>9}")
    for title, lists in class_lists().items():
        start = time.perf_counter()
        row = ""
        for choice in CHOICES:
            scores = [score(classes, choice, lexicon) for classes in lists]
            right = sum(score[0] for score in scores)
            counted = sum(score[1] for score in scores)
            row += f"{100 * right / counted:8.1f}%"
        seconds = time.perf_counter() - start
        print(f"{title:22}{counted:9}{row}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
