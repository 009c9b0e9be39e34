"""Cluster a teacher's embeddings of the training images with k-means, for CLIP-CID.

The embeddings are of the canonical (central) view of each image.
"""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.balance.neighbors import IntArray, Vectors, normalize_rows
from beamclip.config import UserError
from beamclip.stores import Progress, Store, build_once, silent
from beamclip.teachers import Embeddings

KIND = "clusters"
# Part of the keys. Increase it if the same embeddings give other clusters.
_VERSION = 1
# Images × clusters up to which every iteration of k-means uses all images.
_MAX_FULL_KMEANS = 10_000_000
_MAX_ITERATIONS = 100
_FAISS_ITERATIONS = 25
# Cosines held in memory at once: 128 MiB in fp32.
_BLOCK_CELLS = 2**25


class Clusters:
    """The content of a finished store of clusters.

    Args:
        store: the store, from `cluster`.

    Attributes:
        centers: cluster centers, unit length, fp32 [K, D].
        ids: sorted sample ids, int64 [N].
        labels: cluster of each sample, whose center has the highest cosine with it, int64 [N].
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        # Names of files in stores keep their original (British) spelling.
        self.centers: Tensor = torch.from_numpy(np.load(store.file("centres.npy")))
        self.ids: IntArray = np.load(store.file("ids.npy"))
        self.labels: IntArray = np.load(store.file("labels.npy"))

    def labels_of(self, ids: IntArray) -> IntArray:
        """Return the clusters of some samples, int64 [B].

        Args:
            ids: sample ids in any order, [B].

        Raises:
            ValueError: a sample was not clustered.
        """
        rows = np.searchsorted(self.ids, ids)
        # searchsorted also returns a row for ids that don't exist; len(self.ids) if above all.
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the store of clusters")
        return self.labels[rows]


def clusters_parts(basis: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the key parts of a store of clusters: everything its content depends on.

    Args:
        basis: key parts of the canonical embeddings, from
            `preparation.embedding_store.embedding_parts`.
        count: number of clusters K.
    """
    return {
        **basis,
        "clusters": count,
        "method": _choose_method(basis["samples"], count),
        "clusters_version": _VERSION,
    }


def _choose_method(images: int, count: int) -> str:
    """Return `kmeans`, `faiss` or `minibatch`, see `fit_unit_centers`."""
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
    """Open the store of the clusters of some images, building it if it doesn't exist.

    Args:
        basis: key parts of the embeddings, see `clusters_parts`.
        embeddings: a store with the embeddings of the images' canonical views.
        ids: sorted sample ids of the images to cluster.
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
    """Run k-means and return the centers, scaled to unit length, fp32 [K, D].

    They are scaled because images are compared with them by cosine (our reading of the paper).

    Args:
        vectors: unit length, [N, D].
        count: number of clusters K.
        method: `kmeans` or `minibatch` for scikit-learn's `KMeans` or `MiniBatchKMeans`; `faiss`
            for the spherical k-means of faiss, which scales the centers in every iteration.
    """
    if method == "faiss":
        return normalize_rows(_fit_with_faiss(vectors, count))
    # scikit-learn takes a second to import. Trials read clusters, but don't compute them.
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    estimators: dict[str, Any] = {"kmeans": KMeans, "minibatch": MiniBatchKMeans}
    estimator = estimators[method](count, n_init=1, max_iter=_MAX_ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        # With fewer distinct images than clusters some centers are equal, which is no problem here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(vectors)
    centers = np.asarray(estimator.cluster_centers_, np.float32)
    # The mean of opposite vectors is 0 and has no direction. It must not be divided by 0.
    lengths = np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-6)
    return np.asarray(centers / lengths, np.float32)


def _fit_with_faiss(vectors: Vectors, count: int) -> NDArray[np.float32]:
    # Imported here because faiss is an optional dependency.
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_FAISS_ITERATIONS,
        seed=0,
        spherical=True,
        # By default faiss warns if there are fewer than 39 images per cluster.
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids)


def nearest_centers(vectors: Vectors, centers: Vectors) -> IntArray:
    """Return the row of the center with the highest cosine for each vector, int64 [N].

    Of equally near centers it is the first.

    Args:
        vectors: unit length, [N, D].
        centers: unit length, [K, D].
    """
    labels = np.empty(len(vectors), np.int64)
    block_size = max(1, _BLOCK_CELLS // len(centers))
    for start in range(0, len(vectors), block_size):
        block = vectors[start : start + block_size]
        labels[start : start + block_size] = (block @ centers.T).argmax(axis=1)
    return labels
