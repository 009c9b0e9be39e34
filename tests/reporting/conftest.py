"""A finished sweep in MLflow and the stores: real images, a real teacher, hostile class names."""

import json

import numpy as np
import pytest
from helpers.tracking_fixtures import (  # noqa: F401
    base,
    empty_database,
    finished,
    finished_database,
    opened,
    sweep,
    uri,
)
from PIL import Image
from safetensors.numpy import save_file

from beamclip.anchors import AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import choose_senses
from beamclip.anchors.wordnet import ClassName, Excerpt
from beamclip.config import DataConfig, Sweep, choice, load_experiment
from beamclip.config.anchors import members_of
from beamclip.data import pack
from beamclip.preparation.embedding_store import embed
from beamclip.reporting.comparison import compare
from beamclip.stores import key_of
from beamclip.stores.sweep_record import SweepRecord
from beamclip.teachers import ViewSet
from beamclip.tracking import SweepTracker, write_published

NAMES = ("<script>alert(1)</script>".replace("/", "∕"), "moss | rose", "sand")
TAU_S, PROMPTS = "objective.student_temperature", "anchors.prompt_set"
VAL, TEST = "linear_probe/val_top1", "linear_probe/test_top1"


@pytest.fixture(scope="session")
def stores(tmp_path_factory, teacher):
    """Three classes with 8 train and 6 test images each, and one broken image.

    Keys: `packed`, `anchors`, `fingerprint`.
    """
    folder, rng = tmp_path_factory.mktemp("report_images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 6)):
        for label, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(80 * label + 40, 40, (32, 32, 3)), 0, 255).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    (folder / "train" / "sand" / "broken.jpg").write_bytes(b"no image at all")
    root = tmp_path_factory.mktemp("report_stores")
    packed = pack(
        DataConfig(source="folder", path=str(folder), image_size=32, max_unreadable_fraction=0.5),
        root,
    )
    embed(
        teacher, packed, ViewSet.center(np.arange(5, len(packed))), root
    )  # a store that holds more than test
    senses = choose_senses(tuple(ClassName(name) for name in packed.names), Excerpt())
    (bank,) = build_anchor_sets(
        teacher, [AnchorSetPlan.of(senses, "plain", members_of("plain", {}))], root
    )
    return {"packed": packed, "anchors": bank.path, "fingerprint": key_of(teacher.fingerprint)}


@pytest.fixture(scope="session")
def page_base(tmp_path_factory):
    """An experiment with its own storage, where the sweep `page` is."""
    return load_experiment("demo", {"storage.path": str(tmp_path_factory.mktemp("report_storage"))})


@pytest.fixture(scope="session")
def page_uri(page_base):
    return f"sqlite:///{page_base.storage.path}/mlflow.db"


@pytest.fixture(scope="session")
def swept(page_base, page_uri, stores, tmp_path_factory):
    """Two temperatures, two prompt sets and two seeds, with every file that a sweep writes."""
    space = {TAU_S: choice(0.05, 0.1), PROMPTS: choice("plain", "openai_7"), "seed": choice(0, 1)}
    swept = Sweep(name="page", question="Which <b>words</b>?", space=space)
    facts = {
        "data_key": stores["packed"].key,
        "teacher_fingerprint": stores["fingerprint"],
        "anchors": {"hash": "cafe"},
    }
    assets = {
        "packed": str(stores["packed"].store.path),
        "classes": str(stores["anchors"]),
        "teachers": [],
        "facts": facts,
    }
    record = SweepRecord(swept, page_base, "20260101-000000-0001", {"key": json.dumps(assets)})
    record.save()
    tags = {"git_revision": "a" * 40 + "-dirty", "version.torch": "2.14"}
    with SweepTracker.open(page_uri, None, swept, page_base, record.sweep_id, tags=tags) as tracker:
        tracker.set_missing_tags(
            {
                "beamclip.command": "python sweeps/page.py --set a='<i>'",
                "beamclip.folder": record.folder,
            }
        )
        write_published(tracker.client, tracker.experiment_id)
        own = {
            "data_key": facts["data_key"],
            "teacher_fingerprint": facts["teacher_fingerprint"],
            "anchors_hash": "cafe",
        }
        for number, (tau, prompts, seed) in enumerate(
            [(t, p, s) for t in (0.05, 0.1) for p in ("plain", "openai_7") for s in (0, 1)]
        ):
            tracker.start_trial(
                f"t{number}", {TAU_S: tau, PROMPTS: prompts, "seed": seed}, tags=own
            )
            tracker.log_trial_metrics(f"t{number}", metrics_of(number), 1)
            for file in trial_files(tmp_path_factory.mktemp(f"t{number}"), stores["packed"]):
                tracker.log_trial_artifact(f"t{number}", file)
            tracker.end_trial(f"t{number}", "FINISHED")
        tracker.log_reference("untrained", {}, {VAL: 21.0, TEST: 20.0})
        tracker.log_reference(
            "teacher", {}, {"zero_shot/test_top1": 60.0, "teacher/images_encoded": 42.0}
        )
    return compare(page_uri, "page")


def metrics_of(number):
    val = 40.0 + 3 * number + number % 2
    cost = {
        "cost/device_seconds": 10.0 + number,
        "cost/images_seen": 100.0 * (1 + number // 2),
        "cost/teacher_images": 48.0,
    }
    return {
        VAL: val,
        TEST: val - 1.3,
        "knn/test_top1": val - 5,
        "zero_shot/test_top1": val - 9,
    } | cost


def trial_files(folder, packed):
    """Write evaluation.json and predictions.safetensors as an evaluation does.

    Every prediction is class 0, with growing confidence.
    """
    ids = packed.test_ids
    labels = packed.labels[ids].astype(np.int64)
    confusion = [[label, 0, int((labels == label).sum())] for label in (1, 2)]
    content = {"names": list(packed.names), "linear_probe": {"confusion": confusion}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    predictions = {
        "ids": ids,
        "labels": labels,
        "probe": np.zeros_like(labels),
        "zero_shot": labels,
    }
    predictions["probe_confidence"] = np.linspace(0.4, 0.9, len(ids), dtype=np.float32)
    save_file(predictions, folder / "predictions.safetensors")
    return [folder / "evaluation.json", folder / "predictions.safetensors"]
