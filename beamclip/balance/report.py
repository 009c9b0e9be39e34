"""What a balance did, in numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from beamclip.balance.search import Rows, Vectors
from beamclip.balance.sets import farthest_pair

_LARGEST = 10


def report_of(vectors: Vectors, ids: Rows, sets: Rows, kept: Rows, labels: Rows, names: Sequence[str]) -> dict[str, Any]:
    """Sets, the largest chain, and what was removed, in all and of each class. JSON values only.

    Args:
        vectors: [N, D], unit length.
        ids: [N] sample ids.
        sets: [N] the set of each.
        kept: rows that are kept.
        labels: [N] classes.
        names: of the classes.
    """
    sizes = np.bincount(sets)
    return {
        "images": len(ids),
        "kept": len(kept),
        "removed": len(ids) - len(kept),
        "removed_share": 1 - len(kept) / len(ids),
        "sets": len(sizes),
        "sets_of_several": int((sizes > 1).sum()),
        "sizes": np.sort(sizes)[::-1][:_LARGEST].tolist(),
        "largest": _largest(vectors, ids, sets, sizes),
        "classes": _classes(labels, labels[kept], names),
    }


def _largest(vectors: Vectors, ids: Rows, sets: Rows, sizes: Rows) -> dict[str, Any]:
    rows = np.flatnonzero(sets == sizes.argmax())
    a, b, distance, sure = farthest_pair(vectors, rows)
    return {"size": len(rows), "farthest": [int(ids[a]), int(ids[b])], "distance": distance, "distance_is_sure": sure}


def _classes(labels: Rows, kept: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class that has images: how many, and the share removed."""
    before, after = (np.bincount(some, minlength=len(names)) for some in (labels, kept))
    return [
        {
            "name": name,
            "images": int(before[label]),
            "removed": int(before[label] - after[label]),
            "share": float(1 - after[label] / before[label]),
        }
        for label, name in enumerate(names)
        if before[label]
    ]
