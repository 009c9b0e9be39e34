"""Near neighbours among unit vectors: exactly, block by block, or by an index of faiss."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.config import UserError
from beamclip.stores import Progress, silent

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
_CELLS = 2**25  # cosines held at once: 128 MiB
_PROBES = 64  # of the index's lists, searched for each image
_TRAINING = 39  # images a list that faiss wants at least
_ASKED = 256  # images whose neighbours are also found exactly, to know what the index misses
_RECALL_AT = 10


@dataclass(frozen=True)
class Neighbours:
    """Lists of near neighbours, nearest first.

    Attributes:
        rows: [N, k].
        distances: [N, k] cosine distances, inf where a list is shorter.
        facts: how they were found, for people. JSON values only.
    """

    rows: Rows
    distances: Vectors
    facts: dict[str, Any]


def unit(vectors: NDArray[Any]) -> Vectors:
    """[N, D] -> the same directions with length 1, float32."""
    vectors = np.asarray(vectors, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest_outside(
    vectors: Vectors, asked: Rows, groups: Rows, count: int, progress: Progress = silent
) -> tuple[Rows, Vectors]:
    """The nearest vectors of other groups, found by comparing with all.

    Args:
        vectors: [N, D], unit length.
        asked: [R] rows.
        groups: [N] group of every row; with `np.arange(N)` an image is only kept from finding itself.
        count: how many.

    Returns:
        Rows and cosine distances, [R, min(count, N)], nearest first; the distance is inf where there is no other.
    """
    everything, of_row = torch.from_numpy(vectors), torch.from_numpy(groups)
    count = min(count, len(vectors))
    rows, distances = (
        np.empty((len(asked), count), np.int64),
        np.empty((len(asked), count), np.float32),
    )
    step = max(1, _CELLS // len(vectors))
    for start in range(0, len(asked), step):
        mine = torch.from_numpy(asked[start : start + step])
        cosines = everything[mine] @ everything.T
        cosines[of_row[mine][:, None] == of_row] = -torch.inf
        best = cosines.topk(count)
        rows[start : start + step], distances[start : start + step] = (
            best.indices.numpy(),
            1 - best.values.numpy(),
        )
        progress("near neighbours", min(start + step, len(asked)), len(asked))
    return rows, distances


def indexed_neighbours(vectors: Vectors, count: int, progress: Progress = silent) -> Neighbours:
    """The nearest others of every vector, by an inverted file of faiss (exact within the lists it looks into).

    An inverted file rather than a graph (HNSW): built by several threads it is the same every time, and it is quicker to build than
    to search, which suits one search for all.

    Raises:
        UserError: faiss is not installed.
    """
    faiss = import_faiss()
    images, width = vectors.shape
    lists = max(1, min(round(4 * images**0.5), images // _TRAINING))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(_PROBES, lists)
    progress("index", 0, images)
    index.train(vectors)
    index.add(vectors)
    rows, cosines = (
        np.empty((images, count + 1), np.int64),
        np.empty((images, count + 1), np.float32),
    )
    step = 4096
    for start in range(0, images, step):
        cosines[start : start + step], rows[start : start + step] = index.search(
            vectors[start : start + step], count + 1
        )
        progress("near neighbours", min(start + step, images), images)
    distances = np.where(
        (rows < 0) | (rows == np.arange(images)[:, None]), np.inf, 1 - cosines
    ).astype(np.float32)
    rows = np.maximum(rows, 0)
    facts = {
        "method": "index",
        "lists": lists,
        "probed": index.nprobe,
        "neighbours": count,
        "recall": recall(vectors, rows, distances),
    }
    return Neighbours(rows, distances, facts)


def recall(vectors: Vectors, rows: Rows, distances: Vectors) -> float:
    """Share of the true ten nearest that are in these lists, over some images spread evenly. Equally near ones count for each other."""
    asked = np.unique(np.linspace(0, len(vectors) - 1, _ASKED).astype(np.int64))
    _, true = nearest_outside(
        vectors,
        asked,
        np.arange(len(vectors)),
        min(_RECALL_AT, len(vectors) - 1, rows.shape[1] - 1),
    )
    found = np.sort(distances[asked], axis=1)[:, : true.shape[1]]
    return float((found <= true + 1e-6).mean())


def seconds_to_compare(images: int, width: int) -> float:
    """How long comparing all pairs of so many vectors will take here, tried on some."""
    some = min(images, 10_000)
    vectors = np.random.default_rng(0).standard_normal((some, width), np.float32)
    asked = np.arange(min(some, 200))
    start = time.perf_counter()
    nearest_outside(vectors, asked, np.arange(some), 1)
    return (time.perf_counter() - start) / (len(asked) * some) * images**2


def import_faiss() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        how = 'install it with pip install "beamclip[index]", or compare every pair with balance.search=exact'
        raise UserError(f"balance.search asks for an index, which needs faiss; {how}") from None
    return faiss
