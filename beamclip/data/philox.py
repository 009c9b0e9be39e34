"""Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3"), vectorised over counters.

A counter-based generator has no state: number n of stream k is a function of (n, k) alone. That is what lets a view be drawn
again anywhere, in any order, by any worker.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Ten rounds. counter: [4, N] and key: [2], both 32-bit values held in uint64 -> [4, N] 32-bit values."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (high >> _HALF) ^ c1 ^ k0, high & _LOW, (low >> _HALF) ^ c3 ^ k1, low & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3])


def stream_key(*parts: object) -> NDArray[np.uint64]:
    """A key [2] for a stream named by these parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def uniforms(ids: NDArray[np.int64], views: NDArray[np.int64], key: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """Independent numbers in [0, 1), `count` for each (sample id, view id).

    Args:
        ids: sample ids, [N], non-negative.
        views: view ids, [N], in [0, 2³²).
        key: from `stream_key`.

    Returns:
        [count, N] float32, with 24 random bits each.
    """
    blocks = -(-count // 4)
    ids64, views64 = ids.astype(np.uint64), views.astype(np.uint64)
    n = len(ids64)
    counter = np.empty((4, blocks, n), dtype=np.uint64)
    counter[0], counter[1], counter[2] = ids64 & _LOW, ids64 >> _HALF, views64
    counter[3] = np.arange(blocks, dtype=np.uint64)[:, None]
    words = philox4x32(counter.reshape(4, -1), key).reshape(4, blocks, n)
    numbers = (words >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)
    return numbers.transpose(1, 0, 2).reshape(blocks * 4, n)[:count]
