"""Read what the report needs besides MLflow's runs: the sweep's record and its stores.

If something can't be read, the functions raise a `UserError` that says what and why. The report
shows that text in place of the section.
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

# Longer side of an image in the report, in pixels. Larger images are shrunk.
_MAX_IMAGE_SIDE = 128


def find_sweep_record(comparison: Comparison, base: Experiment) -> SweepRecord:
    """Read the record of a sweep (`sweep.json`).

    It is looked for in the given storage first, then in the folder that the sweep logged as a tag.

    Args:
        comparison: the sweep.
        base: settings; only those of the storage are used.

    Raises:
        UserError: the record can't be read in either folder.
    """
    root = storage_root(base)
    name = comparison.experiment
    sweep_id = comparison.sweep_id
    logged_folder = comparison.tags.get("beamclip.folder", "")
    with suppress(UserError):
        return load_record(root, name, sweep_id)
    with suppress(UserError):
        return read_record(logged_folder)
    folders = [logged_folder] if logged_folder else []
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
        packed: the packed images.
        names: class names in label order.
        anchors: folder of the anchors of the data's own classes; None if the trial has none.
        fingerprint: hash of the first teacher's fingerprint; empty if it was not recorded.
    """

    packed: PackedImages
    names: tuple[str, ...]
    anchors: Path | None
    fingerprint: str


def open_trial_stores(record: SweepRecord, trial: RunRow) -> TrialStores:
    """Open the stores that a trial read.

    Raises:
        UserError: the record does not name the trial's stores, or they are missing or damaged.
    """
    assets = _find_assets(record, trial)
    packed = open_packed(Path(assets["packed"]))
    anchors = Path(assets["classes"]) if assets.get("classes") else None
    # The names that the prompts were made with, which may differ from the data's own.
    names = None
    if anchors:
        manifest = read_json(anchors / "manifest.json") or {}
        names = manifest.get("names")
    fingerprint = assets["facts"].get("teacher_fingerprint", "")
    return TrialStores(packed, tuple(names or packed.names), anchors, fingerprint)


def _find_assets(record: SweepRecord, trial: RunRow) -> dict[str, Any]:
    """Return the first assets in the record whose keys equal those in the trial's tags."""
    for text in record.assets.values():
        # Records of older versions lack some fields, so `Assets.from_json` could not read them.
        assets: dict[str, Any] = json.loads(text)
        facts = assets.get("facts", {})
        expected_tags = {
            "data_key": facts.get("data_key"),
            "teacher_fingerprint": facts.get("teacher_fingerprint"),
            "anchors_hash": (facts.get("anchors") or {}).get("hash"),
        }
        matches = True
        for tag, value in expected_tags.items():
            if value is not None and trial.tags.get(tag) != str(value):
                matches = False
        if matches and "packed" in assets:
            return assets
    raise UserError(f"the sweep's record names no stores of the trial {trial.name}")


def teacher_predictions(stores: TrialStores, ids: IntArray) -> IntArray:
    """Return the labels that the teacher's zero-shot predicts for samples.

    They are computed from stored embeddings of the center-crop views; no image is encoded.

    Args:
        stores: the trial's images and anchors.
        ids: sample ids in any order, [N].

    Returns:
        Predicted labels, int64 [N].

    Raises:
        UserError: there are no anchors, or no store of the teacher's embeddings of these samples.
    """
    # Imported here so that the tables and plots of a sweep need no torch.
    import torch

    from beamclip.anchors import AnchorSet
    from beamclip.evaluation import zero_shot_predict
    from beamclip.teachers import Embeddings, ViewSet, covering_store

    if stores.anchors is None:
        raise UserError("the trial has no class anchors, so its teacher's zero-shot is not known")
    # Stores are in ROOT/KIND/KEY.
    root = stores.packed.store.path.parents[1]
    # A `ViewSet` needs its ids sorted; `gather` below returns rows in the order of `ids`.
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
    """Return the full fingerprint of the teacher with this hash; None if no store has it.

    The sweep's record has only the hash. The manifests of embedding stores have the fingerprint.
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
        pixels: RGB image, uint8 [H, W, 3]. It is shrunk if a side is longer than 128 pixels.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
