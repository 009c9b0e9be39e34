import math

import numpy as np
import pytest

from beamclip.anchors.wordnet.disambiguate import PHYSICAL, ROUNDS, sense_probabilities
from beamclip.anchors.wordnet.lemmatize import qualifier, strip_qualifier


def slow_sense_probabilities(names, candidates, lexicon):
    """The module's equation written out, one sense and synset ancestor at a time."""
    below = [[lexicon.ancestors(synset.id) for synset in of_class] for of_class in candidates]

    def added(id):
        above = max(
            (lexicon.information_content(parent) for parent in lexicon.synset(id).parents),
            default=0,
        )
        return max(lexicon.information_content(id) - above, 0)

    def prior(name, synset, rank):
        words = qualifier(name).split()
        text = (
            " ".join(
                lemma for id in lexicon.ancestors(synset.id) for lemma in lexicon.synset(id).lemmas
            )
            + " "
            + synset.gloss
        )
        fit = sum(word in text for word in words) / len(words) if words else 0
        usual = synset.lemmas[0].lower() == strip_qualifier(name)
        return (
            usual + (PHYSICAL in lexicon.ancestors(synset.id)) - 0.25 * math.log(1 + rank) + 3 * fit
        )

    def softmax(logits):
        weights = [math.exp(x) for x in logits]
        return [w / sum(weights) for w in weights]

    priors = [
        [prior(name, synset, rank) for rank, synset in enumerate(of_class)]
        for name, of_class in zip(names, candidates, strict=True)
    ]
    probabilities = [softmax(of_class) for of_class in priors]
    for _ in range(ROUNDS):
        new = []
        for own_class, of_class in enumerate(candidates):
            logits = []
            for number, synset in enumerate(of_class):
                shared = total = 0
                for a in lexicon.ancestors(synset.id):
                    of_others = [
                        pair
                        for c in range(len(candidates))
                        if c != own_class
                        for pair in zip(probabilities[c], below[c], strict=True)
                    ]
                    others = sum(probability for probability, chain in of_others if a in chain)
                    shared, total = shared + added(a) * others / (others + 5), total + added(a)
                logits.append(5 * shared / total + priors[own_class][number])
            new.append(softmax(logits))
        probabilities = new
    return probabilities


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
    candidates = [small.senses(name) for name in names]
    for fast, slow in zip(
        sense_probabilities(names, candidates, small),
        slow_sense_probabilities(names, candidates, small),
        strict=True,
    ):
        assert fast == pytest.approx(slow, rel=1e-9)
        assert fast.sum() == pytest.approx(1) or not len(slow)


def best(lexicon, names):
    candidates = [
        [synset for synset in lexicon.senses(name) if not synset.instance] for name in names
    ]
    probability = sense_probabilities(names, candidates, lexicon)[0]
    return candidates[0][int(np.argmax(probability))].id


def test_the_other_classes_decide(small, ids):
    assert best(small, ["crane", "heron", "wader", "bird"]) == ids["crane-bird"]
    assert best(small, ["crane", "forklift", "axe", "machine"]) == ids["crane-machine"]


def test_a_qualifier_decides(small, ids):
    assert best(small, ["crane (bird)", "forklift", "axe"]) == ids["crane-bird"]
    assert best(small, ["crane (for heavy objects)", "heron", "wader"]) == ids["crane-machine"]


def test_a_settled_class_counts_and_an_unknown_one_does_not(small, ids):
    crane = small.senses("crane")
    alone = sense_probabilities(["crane"], [crane], small)[0]
    assert sense_probabilities(["crane", "x"], [crane, ()], small)[0] == pytest.approx(alone)
    with_heron = sense_probabilities(["crane", "x"], [crane, (small.synset(ids["heron"]),)], small)[
        0
    ]
    assert with_heron[2] > alone[2] and with_heron[0] < alone[0]


def test_classes_without_candidates_have_no_probabilities(small):
    assert sense_probabilities([], [], small) == [] and [
        len(probability) for probability in sense_probabilities(["x", "y"], [(), ()], small)
    ] == [0, 0]
