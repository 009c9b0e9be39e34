"""k-NN against scikit-learn and its equation."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from beamclip.config import UserError
from beamclip.evaluation import knn, knn_predict


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(4, 12, generator=g)
    labels = torch.randint(0, 4, (300,), generator=g)
    features = centers[labels] + 1.5 * torch.randn(300, 12, generator=g)
    return features[:200], labels[:200], features[200:]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5)])
def test_equals_scikit_learn(data, k, temperature):
    bank, labels, queries = data
    reference = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    expected = reference.fit(bank.double().numpy(), labels.numpy()).predict(
        queries.double().numpy()
    )
    assert knn_predict(queries, bank, labels, [k], temperature)[0].tolist() == expected.tolist()


def test_with_equal_weights_it_is_scikit_learn_s_vote(data):
    """A very high temperature gives all neighbors the same weight. Ties go to the nearest."""
    bank, labels, queries = data
    odd = [3, 7, 31]
    for k, predicted in zip(odd, knn_predict(queries, bank, labels, odd, 1e4), strict=True):
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(
            bank.double().numpy(), labels.numpy()
        )
        top = np.sort(reference.predict_proba(queries.double().numpy()), axis=1)
        clear = top[:, -1] > top[:, -2]
        assert clear.sum() > 60
        assert (
            predicted.numpy()[clear].tolist()
            == reference.predict(queries.double().numpy())[clear].tolist()
        )


def test_several_k_in_one_pass_equal_each_k_alone(data):
    bank, labels, queries = data
    ks = [50, 1, 20, 200, 20]
    together = knn_predict(queries, bank, labels, ks, 0.07)
    assert torch.equal(
        together, torch.cat([knn_predict(queries, bank, labels, [k], 0.07) for k in ks])
    )
    assert not torch.equal(together[0], together[1])


def test_equals_the_equation_written_out(data):
    bank, labels, queries = data
    predictions = knn_predict(queries[:10], bank, labels, [15], 0.1)[0]
    for query, predicted in zip(queries[:10], predictions, strict=True):
        cosines = torch.cosine_similarity(query[None], bank).tolist()
        nearest = sorted(zip(cosines, labels.tolist(), strict=True), reverse=True)[:15]
        scores = [0.0] * 4
        for cosine, label in nearest:
            scores[label] += math.exp(cosine / 0.1)
        assert predicted == scores.index(max(scores))


def test_the_block_size_changes_nothing(data, monkeypatch):
    bank, labels, queries = data
    whole = knn_predict(queries, bank, labels, [5, 20], 0.07)
    monkeypatch.setattr(knn, "BLOCK", 7 * len(bank))
    assert torch.equal(knn_predict(queries, bank, labels, [5, 20], 0.07), whole)


def test_a_tiny_temperature_is_the_single_nearest(data):
    bank, labels, queries = data
    assert torch.equal(
        knn_predict(queries, bank, labels, [20], 1e-6),
        knn_predict(queries, bank, labels, [1], 0.07),
    )


def test_more_neighbors_than_images_are_a_user_error(data):
    bank, labels, queries = data
    with pytest.raises(UserError, match=r"probe.knn_k is 201, but there are only 200 train images"):
        knn_predict(queries, bank, labels, [20, 201], 0.07)
