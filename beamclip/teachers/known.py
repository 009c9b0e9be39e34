"""What finished stores hold already of a set of views: those rows are copied, and no teacher sees their images again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.stores import open_store
from beamclip.teachers.embeddings import KIND, Embeddings, if_good, stores_like
from beamclip.teachers.views import Ids, ViewSet


@dataclass(frozen=True)
class Known:
    """Stores of the same teacher, images, recipe and seed, with other samples or another number of views.

    Attributes:
        paths: their folders.
    """

    paths: tuple[Path, ...] = ()

    @classmethod
    def beside(cls, root: Path, basis: dict[str, Any], views: ViewSet) -> "Known":
        """All finished stores that hold some of these views. basis: see `covering_store`."""
        likes = (store.path for store in stores_like(root, basis))
        return cls(tuple(path for path in likes if np.isin(np.load(path / "ids.npy"), views.ids).any()))

    @classmethod
    def named(cls, root: Path, names: Sequence[str]) -> "Known":
        """Stores by their keys, as a builder noted them; one that was deleted or damaged since is left out, and its rows are made."""
        stores = (if_good(root / KIND / name) for name in names)
        return cls(tuple(store.path for store in stores if store is not None))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    @cached_property
    def _stores(self) -> list[Embeddings]:
        return [Embeddings(open_store(path)) for path in self.paths]

    def holds(self, ids: Ids, views: int) -> NDArray[np.bool_]:
        """Which views of these samples are held, [N, views]."""
        held = np.zeros((len(ids), views), bool)
        for store in self._stores:
            held[np.isin(ids, store.ids), : store.views] = True
        return held

    def fill(self, ids: Ids, out: NDArray[np.float16]) -> None:
        """Copy the rows that are held into `out`, [N, views, D]."""
        for store in self._stores:
            rows = np.flatnonzero(np.isin(ids, store.ids))
            for view in range(min(store.views, out.shape[1])):
                out[rows, view] = store.gather(ids[rows], view)
