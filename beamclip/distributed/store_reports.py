"""Reports of a `PrepareActor` about stores: plain dicts, which need neither torch nor Ray."""

from typing import Any, NotRequired, TypedDict


class PlannedStore(TypedDict):
    """A store that a sweep needs: a `beamclip.preparation.plan.PlannedStore` as a dict.

    `store`: kind of the store.
    `description`: what it holds.
    `exists`: True if it exists and is intact.
    `images`: number of images that have to be processed to build it.
    `bytes`: size of the store, or of its missing part.
    `seconds`: estimated time to build it; None if it can't be known yet.
    `note`: what the user should check; or empty.
    """

    store: str
    description: str
    exists: bool
    images: int
    bytes: int
    seconds: float | None
    note: NotRequired[str]


class InputKeys(TypedDict):
    """Keys of the content of an experiment's inputs.

    `packed`: name of the store of its packed images.
    `teachers`: key of each teacher's fingerprint; None for the demo's.
    """

    packed: str
    teachers: list[str | None]


class PackedSummary(TypedDict):
    """The packed images of an experiment.

    `path`: path of the store.
    `images`: number of images in the store.
    `bytes`: size of the store.
    `bad`: number of images that can't be read.
    `flat`: number of packed images that are nearly one color.
    """

    path: str
    images: int
    bytes: int
    bad: int
    flat: int


class BuiltStores(TypedDict):
    """The stores of a sweep.

    `assets`: asset key -> `beamclip.preparation.assets.Assets` as JSON text.
    `untrained`: metrics of the untrained student; empty if they were not asked for.
    """

    assets: dict[str, str]
    untrained: dict[str, float]


class BalanceSummary(TypedDict):
    """The balance of an experiment's training images.

    `path`: path of the store.
    `report`: see `beamclip.balance.report.BalanceReport`.
    """

    path: str
    report: dict[str, Any]


class VerifiedStore(TypedDict):
    """An embedding store compared with its teacher, see `beamclip.preparation.verify`.

    `store`: path of the store.
    `teacher`: name of the teacher.
    `views`: number of views that were encoded again.
    `lowest`: lowest cosine between a stored and a new embedding.
    `mean`: mean of these cosines.
    """

    store: str
    teacher: str
    views: int
    lowest: float
    mean: float
