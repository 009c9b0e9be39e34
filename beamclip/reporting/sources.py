"""What a page reads beside MLflow's numbers: the sweep's record and its stores. What can't be read is a `UserError` that says why."""

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.config import Experiment, UserError
from beamclip.data import PackedImages, open_packed
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.stores import key_of, open_store, read_json
from beamclip.stores.paths import storage_root
from beamclip.stores.sweep_record import SweepRecord, read_record, record_in

Ids = NDArray[np.int64]
_SIDE = 128  # px of an image on the page


def sweep_record(comparison: Comparison, base: Experiment) -> SweepRecord:
    """The record of a sweep: in the storage that `base` names, else where it was written.

    Raises:
        UserError: it is in neither.
    """
    root, name, sweep_id = storage_root(base), comparison.experiment, comparison.sweep_id
    own, given = comparison.tags.get("beamclip.folder", ""), f"{root}/sweeps/{name}/{sweep_id}"
    with suppress(UserError):
        return record_in(root, name, sweep_id)
    with suppress(UserError):
        return read_record(own)
    places = " or ".join(dict.fromkeys(filter(None, (own, given))))
    raise UserError(
        f"the sweep's record (sweep.json) can't be read in {places}; name its storage with --storage"
    )


@dataclass(frozen=True)
class Stores:
    """A trial's packed images, and where its class anchors lie (None where it has none).

    Attributes:
        names: the classes, in label order.
        fingerprint: of the first teacher.
    """

    packed: PackedImages
    names: tuple[str, ...]
    anchors: Path | None
    fingerprint: str


def open_stores(record: SweepRecord, trial: Row) -> Stores:
    """The stores that a trial read.

    Raises:
        UserError: the record does not name them, or they can't be reached or are damaged.
    """
    assets = _assets_of(record, trial)
    packed = open_packed(Path(assets["packed"]))
    anchors = Path(assets["classes"]) if assets.get("classes") else None
    names = (read_json(anchors / "manifest.json") or {}).get("names") if anchors else None
    return Stores(
        packed,
        tuple(names or packed.names),
        anchors,
        assets["facts"].get("teacher_fingerprint", ""),
    )


def _assets_of(record: SweepRecord, trial: Row) -> dict[str, Any]:
    """By what the trial's own tags say it read."""
    known = [json.loads(text) for text in record.assets.values()]
    for assets in known:
        facts = assets.get("facts", {})
        said = {
            "data_key": facts.get("data_key"),
            "teacher_fingerprint": facts.get("teacher_fingerprint"),
        }
        said["anchors_hash"] = (facts.get("anchors") or {}).get("hash")
        if "packed" in assets and all(
            trial.tags.get(tag) == str(value) for tag, value in said.items() if value is not None
        ):
            return dict(assets)
    raise UserError(f"the sweep's record names no stores of the trial {trial.name}")


def teacher_predictions(stores: Stores, ids: Ids) -> Ids:
    """The class that the teacher's zero-shot gives each of these samples, [N], from its stored canonical views; nothing is encoded.

    Raises:
        UserError: the anchors or a store of these views can't be found.
    """
    import torch

    from beamclip.anchors import AnchorSet
    from beamclip.evaluation import zero_shot_logits
    from beamclip.teachers import Embeddings, ViewSet, covering_store

    if stores.anchors is None:
        raise UserError("the trial has no class anchors, so its teacher's zero-shot is not known")
    root, views = stores.packed.store.path.parents[1], ViewSet.center(np.sort(ids))
    for teacher in _teachers(root, stores):
        found = covering_store(
            root, {"images": stores.packed.key, "teacher": teacher, **views.drawn()}, views
        )
        if found is not None:
            seen = torch.from_numpy(Embeddings(found).gather(ids, 0))
            best = zero_shot_logits(
                seen, AnchorSet.open(open_store(stores.anchors)).embeddings
            ).argmax(-1)
            return np.asarray(best.numpy(), np.int64)
    raise UserError(f"no store below {root} holds the teacher's embeddings of the test images")


def _teachers(root: Path, stores: Stores) -> Iterator[dict[str, Any]]:
    """Fingerprints, in full, of the trial's first teacher: a store's manifest has them, the record only their hash."""
    for path in sorted((root / "embeddings").glob("*/manifest.json")):
        teacher = (read_json(path) or {}).get("parts", {}).get("teacher")
        if teacher is not None and key_of(teacher) == stores.fingerprint:
            yield teacher
            return


def jpeg_of(pixels: NDArray[np.uint8]) -> bytes:
    """An image [S, S, 3] as a small JPEG, no larger than it is."""
    image, stream = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
