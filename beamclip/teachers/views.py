"""Which views an embedding store holds."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import RECIPES, Recipe
from beamclip.data.views import RENDER_VERSION

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ViewSet:
    """Views 0 to `count` of a recipe, drawn with a seed, of these samples (sorted ids)."""

    ids: Ids
    recipe: Recipe
    count: int
    seed: int

    @classmethod
    def center(cls, ids: Ids) -> "ViewSet":
        """The canonical view of each sample."""
        return cls(ids, RECIPES["center"], 1, 0)

    def drawn(self) -> dict[str, Any]:
        """What decides how a view looks. One that is not random depends on no seed."""
        seed = self.seed if self.recipe.random else 0
        return {"recipe": self.recipe.model_dump(mode="json"), "seed": seed, "render": RENDER_VERSION}

    def parts(self) -> dict[str, Any]:
        """What of it goes into a store's key."""
        ids = np.ascontiguousarray(self.ids, dtype="<i8")
        return {"ids": hashlib.sha256(ids.tobytes()).hexdigest()[:16], "samples": len(ids), "views": self.count, **self.drawn()}

    @property
    def images(self) -> int:
        """Views in all."""
        return len(self.ids) * self.count

    def joined(self, other: "ViewSet") -> "ViewSet":
        """The views of both, for two sets that are drawn alike."""
        assert self.drawn() == other.drawn()
        return ViewSet(np.union1d(self.ids, other.ids), self.recipe, max(self.count, other.count), self.seed)
