"""Read what the report needs besides MLflow's numbers: the sweep's record and its stores.

All functions raise a `UserError` that says what can't be read and why.
"""

import io
import json
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
from beamclip.reporting.groups import RunRow
from beamclip.stores import key_of, open_store, read_json
from beamclip.stores.paths import storage_root
from beamclip.stores.sweep_record import SweepRecord, load_record, read_record

IntArray = NDArray[np.int64]

# Largest side of an image in the report, in px.
_MAX_IMAGE_SIDE = 128


def find_sweep_record(comparison: Comparison, base: Experiment) -> SweepRecord:
    """Read the record of a sweep.

    Args:
        comparison: the sweep.
        base: names the storage to look in first; then the folder that the sweep noted is tried.

    Raises:
        UserError: it is in neither.
    """
    root = storage_root(base)
    name = comparison.experiment
    sweep_id = comparison.sweep_id
    noted_folder = comparison.tags.get("beamclip.folder", "")
    with suppress(UserError):
        return load_record(root, name, sweep_id)
    with suppress(UserError):
        return read_record(noted_folder)
    folders = [noted_folder] if noted_folder else []
    given_folder = f"{root}/sweeps/{name}/{sweep_id}"
    if given_folder not in folders:
        folders.append(given_folder)
    raise UserError(
        f"the sweep's record (sweep.json) can't be read in {' or '.join(folders)}; "
        "name its storage with --storage"
    )


@dataclass(frozen=True)
class TrialStores:
    """A trial's images and class anchors.

    Attributes:
        packed: its packed images.
        names: the classes, in label order.
        anchors: folder of the anchors of the data's own classes, None if the trial has none.
        fingerprint: hash of the first teacher's fingerprint.
    """

    packed: PackedImages
    names: tuple[str, ...]
    anchors: Path | None
    fingerprint: str


def open_trial_stores(record: SweepRecord, trial: RunRow) -> TrialStores:
    """Open the stores that a trial read.

    Raises:
        UserError: the record does not name them, or they can't be reached or are damaged.
    """
    assets = _find_assets(record, trial)
    packed = open_packed(Path(assets["packed"]))
    anchors = Path(assets["classes"]) if assets.get("classes") else None
    names = None
    if anchors:
        manifest = read_json(anchors / "manifest.json") or {}
        names = manifest.get("names")
    fingerprint = assets["facts"].get("teacher_fingerprint", "")
    return TrialStores(packed, tuple(names or packed.names), anchors, fingerprint)


def _find_assets(record: SweepRecord, trial: RunRow) -> dict[str, Any]:
    """Return the assets in the record whose keys are those in the trial's tags.

    Records of older versions lack some fields, so the JSON is read without `Assets.from_json`.
    """
    for text in record.assets.values():
        assets: dict[str, Any] = json.loads(text)
        facts = assets.get("facts", {})
        expected_tags = {
            "data_key": facts.get("data_key"),
            "teacher_fingerprint": facts.get("teacher_fingerprint"),
            "anchors_hash": (facts.get("anchors") or {}).get("hash"),
        }
        matches = all(
            value is None or trial.tags.get(tag) == str(value)
            for tag, value in expected_tags.items()
        )
        if "packed" in assets and matches:
            return assets
    raise UserError(f"the sweep's record names no stores of the trial {trial.name}")


def teacher_predictions(stores: TrialStores, ids: IntArray) -> IntArray:
    """Return the classes that the teacher's zero-shot predicts for samples, [N].

    They are computed from the stored embeddings of the canonical views; nothing is encoded.

    Args:
        stores: the trial's images and anchors.
        ids: sample ids, [N].

    Raises:
        UserError: there are no anchors, or no store of the teacher's embeddings of these samples.
    """
    import torch

    from beamclip.anchors import AnchorSet
    from beamclip.evaluation import zero_shot_predict
    from beamclip.teachers import Embeddings, ViewSet, covering_store

    if stores.anchors is None:
        raise UserError("the trial has no class anchors, so its teacher's zero-shot is not known")
    root = stores.packed.store.path.parents[1]
    views = ViewSet.center(np.sort(ids))
    teacher = _teacher_fingerprint(root, stores.fingerprint)
    if teacher is not None:
        basis = {"images": stores.packed.key, "teacher": teacher, **views.render_parts()}
        store = covering_store(root, basis, views)
        if store is not None:
            embeddings = torch.from_numpy(Embeddings(store).gather(ids, 0))
            anchors = AnchorSet.open(open_store(stores.anchors)).embeddings
            predictions = zero_shot_predict(embeddings, anchors)
            return np.asarray(predictions.numpy(), np.int64)
    raise UserError(f"no store in {root} has the teacher's embeddings of the test images")


def _teacher_fingerprint(root: Path, key: str) -> dict[str, Any] | None:
    """Return the full fingerprint of a teacher by its hash.

    The sweep's record has only the hash; manifests of embedding stores have the whole.
    """
    for path in sorted((root / "embeddings").glob("*/manifest.json")):
        manifest = read_json(path) or {}
        teacher: dict[str, Any] | None = manifest.get("parts", {}).get("teacher")
        if teacher is not None and key_of(teacher) == key:
            return teacher
    return None


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image as a small JPEG.

    Args:
        pixels: [S, S, 3]; larger images are shrunk to 128 px, smaller ones stay.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
