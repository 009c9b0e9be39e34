"""Find near neighbors among unit vectors, exactly in blocks or with a faiss index."""

import time
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.config import UserError
from beamclip.stores import Progress, silent

IntArray = NDArray[np.int64]
Vectors = NDArray[np.float32]

# Cosines held in memory at once: 128 MiB.
_BLOCK_CELLS = 2**25
# Lists of the index that are searched for each image.
_PROBED_LISTS = 64
# faiss wants at least this many training vectors for each list.
_MIN_IMAGES_PER_LIST = 39
_INDEX_BATCH = 4096
# Recall is measured on this many images, by the share of their ten true nearest neighbors.
_RECALL_IMAGES = 256
_RECALL_NEIGHBORS = 10


class SearchFacts(TypedDict, total=False):
    """Facts about a search for near neighbors. Stored as JSON; the keys must not change.

    Attributes:
        method: `exact` or `index`.
        passes: exact search: how often all images were compared with all, on average.
        lists: index: number of inverted lists.
        probed: index: number of lists searched for each image.
        neighbours: index: number of neighbors found for each image.
        recall: index: share of the ten true nearest neighbors that were found, in [0, 1].
    """

    method: str
    passes: float
    lists: int
    probed: int
    neighbours: int
    recall: float


@dataclass(frozen=True)
class Neighbors:
    """The near neighbors of every image, nearest first.

    Attributes:
        rows: [N, k] rows of the neighbors.
        distances: [N, k] cosine distances; inf if fewer than k were found.
        facts: how they were found.
    """

    rows: IntArray
    distances: Vectors
    facts: SearchFacts


def normalize_rows(vectors: NDArray[Any]) -> Vectors:
    """Scale rows to unit length, [N, D] -> [N, D] float32."""
    vectors = np.asarray(vectors, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest_in_other_groups(
    vectors: Vectors,
    query_rows: IntArray,
    groups: IntArray,
    count: int,
    progress: Progress = silent,
) -> tuple[IntArray, Vectors]:
    """Find the nearest vectors that are in other groups, by comparing with all vectors.

    Args:
        vectors: [N, D], unit length.
        query_rows: [R] rows whose neighbors are wanted.
        groups: [N] group of every row. With `np.arange(N)` a row is only kept from finding itself.
        count: number of neighbors.
        progress: called after each block.

    Returns:
        Rows and cosine distances, [R, min(count, N)], nearest first. The distance is inf if there
        is no other neighbor.
    """
    all_vectors = torch.from_numpy(vectors)
    all_groups = torch.from_numpy(groups)
    count = min(count, len(vectors))
    rows = np.empty((len(query_rows), count), np.int64)
    distances = np.empty((len(query_rows), count), np.float32)
    block_size = max(1, _BLOCK_CELLS // len(vectors))
    for start in range(0, len(query_rows), block_size):
        stop = start + block_size
        block = torch.from_numpy(query_rows[start:stop])
        cosines = all_vectors[block] @ all_vectors.T
        cosines[all_groups[block][:, None] == all_groups] = -torch.inf
        top = cosines.topk(count)
        rows[start:stop] = top.indices.numpy()
        distances[start:stop] = 1 - top.values.numpy()
        progress("near neighbors", min(stop, len(query_rows)), len(query_rows))
    return rows, distances


def approximate_neighbors(vectors: Vectors, count: int, progress: Progress = silent) -> Neighbors:
    """Find the nearest other vectors of every vector with an inverted file of faiss.

    Results are exact within the lists that are searched. An inverted file is used rather than a
    graph (HNSW) because it is the same every time even if several threads build it, and because
    building it takes less time than searching it, which suits one search for all vectors.

    Args:
        vectors: [N, D], unit length.
        count: number of neighbors.
        progress: called after each batch.

    Raises:
        UserError: faiss is not installed.
    """
    faiss = import_faiss()
    images, width = vectors.shape
    lists = max(1, min(round(4 * images**0.5), images // _MIN_IMAGES_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(_PROBED_LISTS, lists)
    progress("index", 0, images)
    index.train(vectors)
    index.add(vectors)

    # One more neighbor, since every image finds itself.
    rows = np.empty((images, count + 1), np.int64)
    cosines = np.empty((images, count + 1), np.float32)
    for start in range(0, images, _INDEX_BATCH):
        stop = start + _INDEX_BATCH
        cosines[start:stop], rows[start:stop] = index.search(vectors[start:stop], count + 1)
        progress("near neighbors", min(stop, images), images)
    # faiss gives row -1 if it found too few.
    is_missing = rows < 0
    is_self = rows == np.arange(images)[:, None]
    distances = np.where(is_missing | is_self, np.inf, 1 - cosines).astype(np.float32)
    rows = np.maximum(rows, 0)
    facts: SearchFacts = {
        "method": "index",
        "lists": lists,
        "probed": index.nprobe,
        "neighbours": count,
        "recall": recall(vectors, rows, distances),
    }
    return Neighbors(rows, distances, facts)


def recall(vectors: Vectors, rows: IntArray, distances: Vectors) -> float:
    """Return the share of the ten true nearest neighbors that were found, over 256 images.

    The images are spread evenly. Neighbors at the same distance count for each other.

    Args:
        vectors: [N, D], unit length.
        rows: [N, k] rows of the neighbors found.
        distances: [N, k] their cosine distances.
    """
    images = np.unique(np.linspace(0, len(vectors) - 1, _RECALL_IMAGES).astype(np.int64))
    count = min(_RECALL_NEIGHBORS, len(vectors) - 1, rows.shape[1] - 1)
    _, true_distances = nearest_in_other_groups(vectors, images, np.arange(len(vectors)), count)
    found_distances = np.sort(distances[images], axis=1)[:, : true_distances.shape[1]]
    return float((found_distances <= true_distances + 1e-6).mean())


def estimate_comparison_seconds(images: int, width: int) -> float:
    """Estimate how long comparing all pairs of vectors takes on this machine, by comparing some."""
    sample_size = min(images, 10_000)
    vectors = np.random.default_rng(0).standard_normal((sample_size, width), np.float32)
    query_rows = np.arange(min(sample_size, 200))
    start = time.perf_counter()
    nearest_in_other_groups(vectors, query_rows, np.arange(sample_size), 1)
    seconds = time.perf_counter() - start
    return seconds / (len(query_rows) * sample_size) * images**2


def import_faiss() -> Any:
    """Return the faiss module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(
            "balance.search asks for an index, which needs faiss; "
            'install it with pip install "beamclip[index]", '
            "or compare every pair with balance.search=exact"
        ) from None
    return faiss
