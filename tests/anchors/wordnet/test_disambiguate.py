import math

import numpy as np
import pytest

from beamclip.anchors.wordnet.disambiguate import PHYSICAL, ROUNDS, weigh
from beamclip.anchors.wordnet.lexicon import remark, without_remark


def slow_weigh(names, options, lexicon):
    """The module's equation written out, one sense and one ancestor at a time."""
    below = [[lexicon.ancestors(one.id) for one in of] for of in options]

    def added(id):
        above = max(
            (lexicon.information(parent) for parent in lexicon.synset(id).parents), default=0
        )
        return max(lexicon.information(id) - above, 0)

    def prior(name, one, rank):
        words = remark(name).split()
        text = (
            " ".join(
                lemma for id in lexicon.ancestors(one.id) for lemma in lexicon.synset(id).lemmas
            )
            + " "
            + one.gloss
        )
        fit = sum(word in text for word in words) / len(words) if words else 0
        usual = one.lemmas[0].lower() == without_remark(name)
        return usual + (PHYSICAL in lexicon.ancestors(one.id)) - 0.25 * math.log(1 + rank) + 3 * fit

    def softmax(logits):
        weights = [math.exp(x) for x in logits]
        return [w / sum(weights) for w in weights]

    priors = [
        [prior(name, one, rank) for rank, one in enumerate(of)]
        for name, of in zip(names, options, strict=True)
    ]
    chances = [softmax(of) for of in priors]
    for _ in range(ROUNDS):
        new = []
        for me, of in enumerate(options):
            logits = []
            for which, one in enumerate(of):
                shared = total = 0
                for a in lexicon.ancestors(one.id):
                    of_others = [
                        pair
                        for c in range(len(options))
                        if c != me
                        for pair in zip(chances[c], below[c], strict=True)
                    ]
                    others = sum(chance for chance, chain in of_others if a in chain)
                    shared, total = shared + added(a) * others / (others + 5), total + added(a)
                logits.append(5 * shared / total + priors[me][which])
            new.append(softmax(logits))
        chances = new
    return chances


@pytest.mark.parametrize(
    "names",
    [
        ["crane", "heron", "bird"],
        ["crane", "forklift", "machine"],
        ["crane (wading bird)", "axes", "nothing", "crane (machine)"],
        ["crane"],
    ],
)
def test_equals_the_equation_written_out(small, names):
    options = [small.senses(name) for name in names]
    for fast, slow in zip(
        weigh(names, options, small), slow_weigh(names, options, small), strict=True
    ):
        assert fast == pytest.approx(slow, rel=1e-9)
        assert fast.sum() == pytest.approx(1) or not len(slow)


def best(lexicon, names):
    options = [[one for one in lexicon.senses(name) if not one.instance] for name in names]
    chance = weigh(names, options, lexicon)[0]
    return options[0][int(np.argmax(chance))].id


def test_the_other_classes_decide(small, ids):
    assert best(small, ["crane", "heron", "wader", "bird"]) == ids["crane-bird"]
    assert best(small, ["crane", "forklift", "axe", "machine"]) == ids["crane-machine"]


def test_a_remark_decides(small, ids):
    assert best(small, ["crane (bird)", "forklift", "axe"]) == ids["crane-bird"]
    assert best(small, ["crane (for heavy objects)", "heron", "wader"]) == ids["crane-machine"]


def test_a_settled_class_counts_and_an_unknown_one_does_not(small, ids):
    crane = small.senses("crane")
    alone = weigh(["crane"], [crane], small)[0]
    assert weigh(["crane", "x"], [crane, ()], small)[0] == pytest.approx(alone)
    beside = weigh(["crane", "x"], [crane, (small.synset(ids["heron"]),)], small)[0]
    assert beside[2] > alone[2] and beside[0] < alone[0]


def test_nothing_to_weigh(small):
    assert weigh([], [], small) == [] and [
        len(chance) for chance in weigh(["x", "y"], [(), ()], small)
    ] == [0, 0]
