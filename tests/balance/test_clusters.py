import numpy as np
import pytest

from beamclip.balance import Clusters, check_count, cluster
from beamclip.balance.clusters import nearest_centres, unit_centres
from beamclip.balance.neighbors import unit
from beamclip.config import UserError


@pytest.fixture
def groups():
    """200 unit vectors around four directions at right angles, and which each belongs to."""
    random = np.random.default_rng(0)
    own = random.integers(0, 4, 200)
    return unit(np.eye(8)[own] + 0.1 * random.normal(size=(200, 8))), own


@pytest.mark.parametrize("method", ["kmeans", "minibatch", "faiss"])
def test_clear_groups_are_found_and_centres_have_length_one(groups, method):
    vectors, own = groups
    centres = unit_centres(vectors, 4, method)
    labels = nearest_centres(vectors, centres)
    assert centres.shape == (4, 8) and np.linalg.norm(centres, axis=1) == pytest.approx(
        [1] * 4, abs=1e-5
    )
    assert len(set(zip(labels, own, strict=True))) == 4
    for number in range(4):
        mean = vectors[labels == number].mean(axis=0)
        assert centres[number] @ mean / np.linalg.norm(mean) > 0.999


@pytest.mark.parametrize("method", ["kmeans", "minibatch", "faiss"])
def test_twice_the_same_clusters(groups, method):
    assert (unit_centres(groups[0], 7, method) == unit_centres(groups[0], 7, method)).all()


def test_labels_are_those_of_the_highest_cosine(groups):
    vectors, _ = groups
    centres = unit_centres(vectors, 9, "kmeans")
    assert nearest_centres(vectors, centres).tolist() == [
        max(range(9), key=lambda k: row @ centres[k]) for row in vectors
    ]


def test_fewer_different_images_than_clusters_still_give_finite_centres():
    vectors = np.tile(np.float32([[1, 0], [-1, 0]]), (10, 1))
    assert np.isfinite(unit_centres(vectors, 4, "kmeans")).all()


def test_more_clusters_than_images_is_a_sentence():
    check_count(10, 10)
    with pytest.raises(
        UserError,
        match="objective.clip_cid.clusters 11 is more than the 10 images trained on; lower it",
    ):
        check_count(11, 10)


def test_a_store_of_clusters_knows_each_image(balanced_inputs, tmp_path):
    basis, embeddings, ids = balanced_inputs
    store = cluster(basis, embeddings, ids, 6, tmp_path)
    clusters = Clusters(store)
    assert clusters.centres.shape == (6, 16) and clusters.centres.norm(
        dim=1
    ).tolist() == pytest.approx([1] * 6, abs=1e-5)
    vectors = unit(embeddings.gather(ids, 0))
    assert (
        clusters.labels_of(ids[[5, 150, 5]]).tolist()
        == (vectors[[5, 150, 5]] @ clusters.centres.numpy().T).argmax(1).tolist()
    )
    with pytest.raises(ValueError, match="not in the store of clusters"):
        clusters.labels_of(np.array([160]))
    assert (
        cluster(basis, embeddings, ids, 6, tmp_path).path
        == store.path
        != cluster(basis, embeddings, ids, 7, tmp_path).path
    )
