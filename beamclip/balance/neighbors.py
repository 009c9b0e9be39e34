"""Find nearest neighbors among unit vectors: exactly in blocks, or with an index of faiss."""

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

# Cosines held in memory at once: 128 MiB in fp32.
_BLOCK_CELLS = 2**25
# Inverted lists that are searched for each image (nprobe).
_PROBED_LISTS = 64
# faiss warns if an inverted list has fewer training vectors than this.
_MIN_IMAGES_PER_LIST = 39
# Images per call of the index, between which progress is shown.
_INDEX_BATCH = 4096
# Recall is measured on this many images and this many of their true nearest neighbors.
_RECALL_IMAGES = 256
_RECALL_NEIGHBORS = 10


class SearchFacts(TypedDict, total=False):
    """How nearest neighbors were found. It is stored as JSON, so the keys must not change.

    Attributes:
        method: `exact` or `index`. The other keys exist for one of them only.
        passes: exact: number of comparisons, as a multiple of comparing all images with all.
        lists: index: number of inverted lists.
        probed: index: number of inverted lists searched for each image.
        neighbours: index: number of neighbors asked for, for each image.
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
    """The nearest neighbors of every image, nearest first.

    Attributes:
        rows: rows of the neighbors, int64 [N, k].
        distances: their cosine distances, fp32 [N, k]. inf marks an entry that is no neighbor: the
            image itself, or nothing where the index found fewer.
        facts: how they were found.
    """

    rows: IntArray
    distances: Vectors
    facts: SearchFacts


def normalize_rows(vectors: NDArray[Any]) -> Vectors:
    """Scale rows to unit length, [N, D] of any float type -> fp32 [N, D]. No row may be 0."""
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
        vectors: unit length, fp32 [N, D].
        query_rows: rows to find neighbors of, [R].
        groups: group of every row, [N]. With `np.arange(N)` only the row itself is excluded.
        count: number of neighbors k.
        progress: called after each block of queries.

    Returns:
        Rows and cosine distances of the neighbors, [R, min(k, N)] each, nearest first. A distance
        of inf marks a missing neighbor.
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
        is_same_group = all_groups[block][:, None] == all_groups
        cosines[is_same_group] = -torch.inf
        top = cosines.topk(count)
        rows[start:stop] = top.indices.numpy()
        distances[start:stop] = 1 - top.values.numpy()
        progress("near neighbors", min(stop, len(query_rows)), len(query_rows))
    return rows, distances


def approximate_neighbors(vectors: Vectors, count: int, progress: Progress = silent) -> Neighbors:
    """Find the nearest other vectors of every vector with an inverted-file index of faiss (IVF).

    The search is exact within the inverted lists that it looks at.

    IVF is used instead of HNSW, because its result doesn't depend on the number of threads that
    build it. It is also built faster than it is searched, which suits an index that is used once.

    Args:
        vectors: unit length, fp32 [N, D].
        count: number of neighbors k.
        progress: called after each batch of queries.

    Returns:
        Neighbors with k + 1 columns, since every image also finds itself.

    Raises:
        UserError: faiss is not installed.
    """
    faiss = import_faiss()
    images, width = vectors.shape
    # 4 √N lists, which the guidelines of faiss recommend, unless the lists would get too short.
    lists = max(1, min(round(4 * images**0.5), images // _MIN_IMAGES_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(_PROBED_LISTS, lists)
    progress("index", 0, images)
    index.train(vectors)
    index.add(vectors)

    columns = count + 1
    rows = np.empty((images, columns), np.int64)
    cosines = np.empty((images, columns), np.float32)
    for start in range(0, images, _INDEX_BATCH):
        stop = start + _INDEX_BATCH
        cosines[start:stop], rows[start:stop] = index.search(vectors[start:stop], columns)
        progress("near neighbors", min(stop, images), images)

    # faiss returns row -1 where it found no further neighbor.
    is_missing = rows < 0
    is_self = rows == np.arange(images)[:, None]
    distances = np.where(is_missing | is_self, np.inf, 1 - cosines).astype(np.float32)
    # Valid as an index; the distance says that there is no neighbor.
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

    The images are evenly spaced rows. A neighbor at the same distance as a true one counts as
    found.

    Args:
        vectors: unit length, fp32 [N, D].
        rows: rows of the neighbors found, with one column more than neighbors, [N, k + 1].
        distances: their cosine distances, [N, k + 1].

    Returns:
        The share, in [0, 1].
    """
    images = np.unique(np.linspace(0, len(vectors) - 1, _RECALL_IMAGES).astype(np.int64))
    count = min(_RECALL_NEIGHBORS, len(vectors) - 1, rows.shape[1] - 1)
    _, true_distances = nearest_in_other_groups(vectors, images, np.arange(len(vectors)), count)
    # Sorted again, because the image itself has distance inf, in any column.
    found_distances = np.sort(distances[images], axis=1)[:, : true_distances.shape[1]]
    # The two searches sum in different orders, so equal distances differ by rounding.
    return float((found_distances <= true_distances + 1e-6).mean())


def estimate_comparison_seconds(images: int, width: int) -> float:
    """Estimate how many seconds comparing all pairs of vectors takes, by timing a small part.

    Args:
        images: number of vectors N.
        width: width D of the vectors.
    """
    sample_size = min(images, 10_000)
    vectors = np.random.default_rng(0).standard_normal((sample_size, width), np.float32)
    query_rows = np.arange(min(sample_size, 200))
    start = time.perf_counter()
    nearest_in_other_groups(vectors, query_rows, np.arange(sample_size), 1)
    seconds = time.perf_counter() - start
    seconds_per_pair = seconds / (len(query_rows) * sample_size)
    return seconds_per_pair * images**2


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
