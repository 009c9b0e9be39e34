"""How often the sense chosen for an ambiguous class name is the right one, against WordNet's most frequent sense.

    python tests/benchmarks/senses.py [--excerpt]

Right is: the synset that LVIS's authors gave to each category (with their remarks, `bow (weapon)`, and without them), the synset that
defines each class of ImageNet-1K (its name being the synset's first lemma), and the table of the package for CIFAR. Counted are names
with more than one noun sense, the right one among them. The formula was chosen on LVIS with an eye on ImageNet-1K, CIFAR was looked at
afterwards; ImageNet-1K's names favour it, since the usual word of the right sense is the name by construction. "10 of LVIS" is the mean
over 100 random lists of ten categories. Known data sets are not recognised here: everything is weighed.

    first     WordNet's most frequent sense
    unnamed   the same, passing over persons, places and other names
    alone     what a name says by itself: usual word, physical thing, frequency
    chosen    all of it, with the other classes
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
    """WordNet's most frequent sense."""
    return [of_class[0].id if of_class else "" for of_class in options]


def unnamed(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """The most frequent sense that is not a name."""
    return first(names, possible(options), lexicon)


def alone(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """Each class as if there were no other."""
    return [
        chosen([name], [of_class], lexicon)[0]
        for name, of_class in zip(names, options, strict=True)
    ]


def chosen(names: Sequence[str], options: Options, lexicon: Lexicon) -> list[str]:
    """What `choose_senses` does with names it knows nothing else about."""
    those = possible(options)
    chances = sense_probabilities(names, those, lexicon)
    return [
        of_class[int(np.argmax(chance))].id if of_class else ""
        for of_class, chance in zip(those, chances, strict=True)
    ]


CHOICES: tuple[Choice, ...] = (first, unnamed, alone, chosen)


def possible(options: Options) -> Options:
    """Without named things, unless there is nothing else."""
    return [[one for one in of_class if not one.instance] or of_class for of_class in options]


def score(classes: Sequence[ClassName], choice: Choice, lexicon: Lexicon) -> Score:
    """How many are right, of how many."""
    names = [one.name for one in classes]
    options = [lexicon.senses(name) for name in names]
    counted = [
        len(of) > 1 and one.synset in {each.id for each in of}
        for one, of in zip(classes, options, strict=True)
    ]
    picked = choice(names, options, lexicon)
    return sum(
        count and id == one.synset for one, id, count in zip(classes, picked, counted, strict=True)
    ), sum(counted)


def known(title: str) -> list[ClassName]:
    """The package's table of a data set."""
    return [
        ClassName(spellings.split("|")[0], id)
        for of, spellings, id in read_table("classes.tsv")
        if of == title
    ]


def lists() -> dict[str, list[list[ClassName]]]:
    """Lists of classes by title; several of them where they are drawn."""
    lvis = list(open_vocabulary("lvis"))
    bare = [ClassName(strip_qualifier(one.name), one.synset) for one in lvis]
    imagenet = [ClassName(tables.lemmas()[id][0], id) for id in tables.imagenet_1k()]
    out = {"LVIS, with remarks": [lvis], "LVIS": [bare], "ImageNet-1K": [imagenet]}
    out |= {title: [known(title)] for title in ("CIFAR-100", "CIFAR-10")}
    drawn = random.Random(0)
    for size in (10, 50, 200):
        out |= {f"{size} of LVIS": [drawn.sample(bare, size) for _ in range(100)]}
        out |= {f"{size} of ImageNet-1K": [drawn.sample(imagenet, size) for _ in range(100)]}
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--excerpt", action="store_true", help="use the excerpt even where WordNet is installed"
    )
    lexicon = Excerpt() if parser.parse_args().excerpt else open_lexicon()
    print(
        f"{'':22}{'counted':>9}"
        + "".join(f"{choice.__name__:>9}" for choice in CHOICES)
        + f"{'seconds':>9}"
    )
    for title, those in lists().items():
        row, start = [], time.perf_counter()
        for choice in CHOICES:
            scores = [score(classes, choice, lexicon) for classes in those]
            counted = sum(count for _, count in scores)
            row.append(f"{100 * sum(right for right, _ in scores) / counted:8.1f}%")
        print(
            f"{title:22}{counted:9}" + "".join(row) + f"{time.perf_counter() - start:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
