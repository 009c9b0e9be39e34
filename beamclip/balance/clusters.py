"""Cluster a teacher's canonical embeddings with k-means, as classes for CLIP-CID."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from beamclip.balance.neighbors import IntArray, Vectors, normalize_rows
from beamclip.config import UserError
from beamclip.stores import Progress, Store, build_once, silent
from beamclip.teachers import Embeddings

KIND = "clusters"
# Part of the keys. Increase it if the same embeddings give other clusters.
_VERSION = 1
# Images × clusters up to which every iteration of k-means takes all images.
_MAX_FULL_KMEANS = 10_000_000
_MAX_ITERATIONS = 100
_FAISS_ITERATIONS = 25
# Cosines held in memory at once: 128 MiB.
_BLOCK_CELLS = 2**25


class Clusters:
    """A finished store of clusters.

    Attributes:
        centers: [K, D] fp32, unit length.
        ids: [N] sorted sample ids.
        labels: [N] int64, the cluster of each sample: the one whose center has the highest cosine.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.centers: Tensor = torch.from_numpy(np.load(store.file("centres.npy")))
        self.ids: IntArray = np.load(store.file("ids.npy"))
        self.labels: IntArray = np.load(store.file("labels.npy"))

    def labels_of(self, ids: IntArray) -> IntArray:
        """Return the clusters of these samples, int64 [B].

        Raises:
            ValueError: a sample was not clustered.
        """
        rows = np.searchsorted(self.ids, ids)
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the store of clusters")
        return self.labels[rows]


def clusters_parts(basis: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return all that a store of clusters depends on.

    Args:
        basis: key parts of the canonical embeddings: `preparation.embedding_store.embedding_parts`.
        count: number of clusters K.
    """
    return {
        **basis,
        "clusters": count,
        "method": _choose_method(basis["samples"], count),
        "clusters_version": _VERSION,
    }


def _choose_method(images: int, count: int) -> str:
    if images * count <= _MAX_FULL_KMEANS:
        return "kmeans"
    return "faiss" if find_spec("faiss") else "minibatch"


def cluster(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    basis: Mapping[str, Any],
    embeddings: Embeddings,
    ids: IntArray,
    count: int,
    root: Path,
    progress: Progress = silent,
    repair: bool = False,
) -> Store:
    """Open the store of the clusters of these images, building it if it is missing.

    Args:
        basis: key parts of the embeddings, as for `clusters_parts`.
        embeddings: a store that holds the images' canonical views.
        ids: sorted sample ids.
        count: number of clusters K.
        root: folder of all stores.
        progress: called when clustering begins.
        repair: rebuild what is damaged in an existing store.

    Raises:
        UserError: there are more clusters than images, or as `build_once`.
    """
    check_cluster_count(count, len(ids))
    parts = clusters_parts(basis, count)

    def build(folder: Path) -> dict[str, Any]:
        progress("clusters", 0, 1)
        vectors = normalize_rows(embeddings.gather(ids, 0))
        centers = fit_unit_centers(vectors, count, parts["method"])
        labels = nearest_centers(vectors, centers)
        np.save(folder / "centres.npy", centers)
        np.save(folder / "ids.npy", np.ascontiguousarray(ids, "<i8"))
        np.save(folder / "labels.npy", np.ascontiguousarray(labels, "<i8"))
        sizes = np.bincount(labels, minlength=count)
        return {
            "clusters": count,
            "width": centers.shape[1],
            "empty": int((sizes == 0).sum()),
            "largest": int(sizes.max()),
        }

    return build_once(root, KIND, parts, build, progress, repair)


def check_cluster_count(count: int, images: int) -> None:
    """Raise UserError if there are more clusters than images."""
    if count > images:
        raise UserError(
            f"objective.clip_cid.clusters {count} is more than the {images} images trained on; "
            "lower it"
        )


def fit_unit_centers(vectors: Vectors, count: int, method: str) -> Vectors:
    """Return cluster centers, [K, D], scaled to unit length.

    Students are compared with centers by cosine (our reading of the paper), so their length must
    not matter.

    Args:
        vectors: [N, D], unit length.
        count: number of clusters K.
        method: `kmeans` or `minibatch` for scikit-learn's, or `faiss`, whose centers have unit
            length in every iteration.
    """
    if method == "faiss":
        return normalize_rows(_fit_with_faiss(vectors, count))
    estimators: dict[str, Any] = {"kmeans": KMeans, "minibatch": MiniBatchKMeans}
    estimator = estimators[method](count, n_init=1, max_iter=_MAX_ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        # Raised if there are fewer distinct images than clusters; then some centers are equal.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(vectors)
    centers = np.asarray(estimator.cluster_centers_, np.float32)
    # The mean of opposite vectors has no direction and stays 0.
    lengths = np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-6)
    return np.asarray(centers / lengths, np.float32)


def _fit_with_faiss(vectors: Vectors, count: int) -> NDArray[np.float32]:
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_FAISS_ITERATIONS,
        seed=0,
        spherical=True,
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids)


def nearest_centers(vectors: Vectors, centers: Vectors) -> IntArray:
    """Return the number of the center with the highest cosine, [N]; of equal ones the first."""
    labels = np.empty(len(vectors), np.int64)
    block_size = max(1, _BLOCK_CELLS // len(centers))
    for start in range(0, len(vectors), block_size):
        block = vectors[start : start + block_size]
        labels[start : start + block_size] = (block @ centers.T).argmax(axis=1)
    return labels
