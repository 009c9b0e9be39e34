"""Reports of a `PrepareActor` about stores: dicts that the driver reads without torch or Ray."""

from typing import Any, TypedDict


class PlannedStore(TypedDict):
    """A store that a sweep needs: a `beamclip.preparation.plan.PlannedStore` as a dict.

    `store`: kind of the store.
    `what`: description of its content.
    `there`: whether it exists and is intact.
    `images`: number of images that have to be processed for it.
    `bytes`: its size, or that of the missing part.
    `seconds`: estimated time to build it; None if it can't be known yet.
    """

    store: str
    what: str
    there: bool
    images: int
    bytes: int
    seconds: float | None


class PackedSummary(TypedDict):
    """An experiment's packed images.

    `path`: of the store.
    `images`: number of images in it.
    `bytes`: its size.
    `bad`: number of images that can't be read.
    """

    path: str
    images: int
    bytes: int
    bad: int


class BuiltStores(TypedDict):
    """The stores of a sweep.

    `assets`: asset key -> `beamclip.preparation.assets.Assets` as JSON text.
    `untrained`: metrics of the untrained student; empty if they were not asked for.
    """

    assets: dict[str, str]
    untrained: dict[str, float]


class BalanceSummary(TypedDict):
    """The balance of an experiment's training images.

    `path`: of the store.
    `report`: see `beamclip.balance`.
    """

    path: str
    report: dict[str, Any]


class VerifiedStore(TypedDict):
    """An embedding store compared with its teacher, see `beamclip.preparation.verify`.

    `store`: its path.
    `teacher`: name of its teacher.
    `views`: number of views that were encoded again.
    `lowest`, `mean`: of the cosines between stored and new embeddings.
    """

    store: str
    teacher: str
    views: int
    lowest: float
    mean: float
