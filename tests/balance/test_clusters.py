import numpy as np
import pytest

from beamclip.balance import Clusters, check_cluster_count, cluster
from beamclip.balance.clusters import fit_unit_centers, nearest_centers
from beamclip.balance.neighbors import normalize_rows
from beamclip.config import UserError


@pytest.fixture
def groups():
    """200 unit vectors around four orthogonal directions, and the direction of each."""
    random = np.random.default_rng(0)
    directions = random.integers(0, 4, 200)
    return normalize_rows(np.eye(8)[directions] + 0.1 * random.normal(size=(200, 8))), directions


@pytest.mark.parametrize("method", ["kmeans", "minibatch", "faiss"])
def test_clear_groups_are_found_and_centers_have_length_one(groups, method):
    vectors, directions = groups
    centers = fit_unit_centers(vectors, 4, method)
    labels = nearest_centers(vectors, centers)
    assert centers.shape == (4, 8) and np.linalg.norm(centers, axis=1) == pytest.approx(
        [1] * 4, abs=1e-5
    )
    assert len(set(zip(labels, directions, strict=True))) == 4
    for number in range(4):
        mean = vectors[labels == number].mean(axis=0)
        assert centers[number] @ mean / np.linalg.norm(mean) > 0.999


@pytest.mark.parametrize("method", ["kmeans", "minibatch", "faiss"])
def test_clusters_are_deterministic(groups, method):
    assert (fit_unit_centers(groups[0], 7, method) == fit_unit_centers(groups[0], 7, method)).all()


def test_labels_are_those_of_the_highest_cosine(groups):
    vectors, _ = groups
    centers = fit_unit_centers(vectors, 9, "kmeans")
    assert nearest_centers(vectors, centers).tolist() == [
        max(range(9), key=lambda k: row @ centers[k]) for row in vectors
    ]


def test_fewer_different_images_than_clusters_still_give_finite_centers():
    vectors = np.tile(np.float32([[1, 0], [-1, 0]]), (10, 1))
    assert np.isfinite(fit_unit_centers(vectors, 4, "kmeans")).all()


def test_more_clusters_than_images_are_refused():
    check_cluster_count(10, 10)
    with pytest.raises(
        UserError,
        match="objective.clip_cid.clusters 11 is more than the 10 images trained on; lower it",
    ):
        check_cluster_count(11, 10)


def test_a_store_has_the_cluster_of_each_image(balanced_inputs, tmp_path):
    basis, embeddings, ids = balanced_inputs
    store = cluster(basis, embeddings, ids, 6, tmp_path)
    clusters = Clusters(store)
    assert clusters.centers.shape == (6, 16) and clusters.centers.norm(
        dim=1
    ).tolist() == pytest.approx([1] * 6, abs=1e-5)
    vectors = normalize_rows(embeddings.gather(ids, 0))
    assert (
        clusters.labels_of(ids[[5, 150, 5]]).tolist()
        == (vectors[[5, 150, 5]] @ clusters.centers.numpy().T).argmax(1).tolist()
    )
    with pytest.raises(ValueError, match="not in the store of clusters"):
        clusters.labels_of(np.array([160]))
    assert (
        cluster(basis, embeddings, ids, 6, tmp_path).path
        == store.path
        != cluster(basis, embeddings, ids, 7, tmp_path).path
    )
