"""k-means on a teacher's canonical embeddings: the classes that CLIP-CID's students discriminate."""

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

from beamclip.balance.neighbors import Rows, Vectors, unit
from beamclip.config import UserError
from beamclip.stores import Progress, Store, build_once, silent
from beamclip.teachers import Embeddings

KIND = "clusters"
_LLOYD = (
    10_000_000  # images × clusters up to which scikit-learn takes every image in every iteration
)
_ITERATIONS = 100
_VERSION = 1  # another one where the same embeddings would give other clusters
_CELLS = 2**25


class Clusters:
    """A finished store of clusters.

    Attributes:
        centres: [K, D] fp32, unit length.
        ids: [N] sorted sample ids.
        labels: [N] int64, each one's cluster: that of the centre with the highest cosine.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.centres: Tensor = torch.from_numpy(np.load(store.file("centres.npy")))
        self.ids: Rows = np.load(store.file("ids.npy"))
        self.labels: Rows = np.load(store.file("labels.npy"))

    def labels_of(self, ids: Rows) -> Rows:
        """The clusters of these samples, int64 [B].

        Raises:
            ValueError: a sample was not clustered.
        """
        rows = np.searchsorted(self.ids, ids)
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the store of clusters")
        return self.labels[rows]


def clusters_parts(basis: Mapping[str, Any], count: int) -> dict[str, Any]:
    """All that clusters depend on.

    Args:
        basis: all that the canonical embeddings of the images depend on: `beamclip.preparation.embedding_store.parts_of`.
        count: K.
    """
    return {
        **basis,
        "clusters": count,
        "method": _method(basis["samples"], count),
        "clusters_version": _VERSION,
    }


def _method(images: int, count: int) -> str:
    if images * count <= _LLOYD:
        return "kmeans"
    return "faiss" if find_spec("faiss") else "minibatch"


def cluster(
    basis: Mapping[str, Any],
    embeddings: Embeddings,
    ids: Rows,
    count: int,
    root: Path,
    progress: Progress = silent,
    repair: bool = False,
) -> Store:
    """Open the store of `count` clusters of these images, making it where it is missing.

    Args:
        embeddings: a store that holds their canonical views.
        ids: sorted.

    Raises:
        UserError: there are more clusters than images; or as `build_once`.
    """
    check_count(count, len(ids))
    parts = clusters_parts(basis, count)

    def build(folder: Path) -> dict[str, Any]:
        progress("clusters", 0, 1)
        vectors = unit(embeddings.gather(ids, 0))
        centres = unit_centres(vectors, count, parts["method"])
        labels = nearest_centres(vectors, centres)
        np.save(folder / "centres.npy", centres)
        np.save(folder / "ids.npy", np.ascontiguousarray(ids, "<i8"))
        np.save(folder / "labels.npy", np.ascontiguousarray(labels, "<i8"))
        sizes = np.bincount(labels, minlength=count)
        return {
            "clusters": count,
            "width": centres.shape[1],
            "empty": int((sizes == 0).sum()),
            "largest": int(sizes.max()),
        }

    return build_once(root, KIND, parts, build, progress, repair)


def check_count(count: int, images: int) -> None:
    """Raises: UserError where there are more clusters than images."""
    if count > images:
        raise UserError(
            f"objective.clip_cid.clusters {count} is more than the {images} images trained on; lower it"
        )


def unit_centres(vectors: Vectors, count: int, method: str) -> Vectors:
    """[K, D] centres, scaled to unit length, since students are compared with them by cosine (our reading).

    Args:
        vectors: [N, D], unit length.
        method: `kmeans`, `minibatch` (scikit-learn's) or `faiss`, whose means have unit length in every iteration.
    """
    if method == "faiss":
        return unit(_by_faiss(vectors, count))
    kind: Any = {"kmeans": KMeans, "minibatch": MiniBatchKMeans}[method]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer different images than clusters: two centres are the same then
        found = kind(count, n_init=1, max_iter=_ITERATIONS, random_state=0).fit(vectors)
    return _scaled(np.asarray(found.cluster_centers_, np.float32))


def _scaled(centres: Vectors) -> Vectors:
    """To unit length; the mean of opposite vectors, which has none, stays 0."""
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.asarray(centres / np.maximum(lengths, 1e-6), np.float32)


def _by_faiss(vectors: Vectors, count: int) -> NDArray[np.float32]:
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1], count, niter=25, seed=0, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids)


def nearest_centres(vectors: Vectors, centres: Vectors) -> Rows:
    """The centre with the highest cosine, [N]; of equal ones, the first."""
    labels, step = np.empty(len(vectors), np.int64), max(1, _CELLS // len(centres))
    for start in range(0, len(vectors), step):
        labels[start : start + step] = (vectors[start : start + step] @ centres.T).argmax(axis=1)
    return labels
