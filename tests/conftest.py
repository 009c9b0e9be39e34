"""Fixtures that the tests of several packages share.

Those with session scope are made once. No test may write into them.
"""

import gc
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

# Tiny tensors gain nothing from threads, and other processes need the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "image_size": 32,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY_PIXELS = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bilinear",
    "resize_mode": "shortest",
}


def pytest_collection_modifyitems(items):
    """Move the tests that start Ray to the front, because they take the longest."""
    items.sort(key=lambda item: not _starts_ray(item.nodeid))


def pytest_collection_finish():
    """Leave the objects of imported libraries out of garbage collection, which saves time."""
    gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    """Distribute tests to processes by file, and all tests that start Ray to one process.

    Two Ray instances on one machine disturb each other.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "ray" if _starts_ray(nodeid) else nodeid.split("::")[0]

    return ByFiles(config, log)


def _starts_ray(nodeid):
    return _file_starts_ray(nodeid.split("::")[0])


@cache
def _file_starts_ray(file):
    return "mark.ray" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """Save a CLIP with random weights in open_clip's format, which open_clip itself can load."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP)
        # With its initial weights it hardly sees the image and gives all images one class.
        model.visual.conv1.weight.data *= 20
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": TINY_PIXELS})
    )
    return folder


@pytest.fixture(scope="session")
def data_config(tmp_path_factory):
    """Write a folder tree of four classes of smooth images, tinted by class, 40 x 36 px.

    Each class has 40 images for train and val, and 8 for test.
    """
    from beamclip.config import DataConfig

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    tints = {
        "moss": (60, 140, 60),
        "rose": (200, 60, 120),
        "sand": (190, 170, 110),
        "sea_ice": (90, 140, 210),
    }
    for split, count in (("train", 40), ("test", 8)):
        for name, tint in tints.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                blobs = np.clip(rng.normal(tint, 60, (5, 5, 3)), 0, 255).astype(np.uint8)
                image = Image.fromarray(blobs).resize((40, 36), Image.Resampling.BICUBIC)
                image.save(folder / split / name / f"{number:02}.png")
    return DataConfig(source="folder", path=str(folder), image_size=32, val_fraction=0.2)


@pytest.fixture(scope="session")
def packed(data_config, tmp_path_factory):
    """Pack the images of `data_config`: 160 for train and val, 32 for test."""
    from beamclip.data import pack

    return pack(data_config, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def teacher(teacher_folder):
    """Load the tiny CLIP as any other teacher."""
    import torch

    from beamclip.config import TeacherConfig
    from beamclip.teachers import load_teacher

    return load_teacher(TeacherConfig(model=f"local-dir:{teacher_folder}"), torch.device("cpu"))


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch):
    """Hide the user's own storage, cache, tracking server and cluster from the tests."""
    for name in ("BEAMCLIP_STORAGE", "BEAMCLIP_CACHE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.fixture
def excerpt(monkeypatch):
    """Choose senses from the package's own excerpt, even if WordNet is installed."""
    from beamclip.anchors import senses
    from beamclip.anchors.wordnet import Excerpt

    lexicon = Excerpt()
    monkeypatch.setattr(senses, "open_lexicon", lambda: lexicon)
    monkeypatch.setattr("beamclip.preparation.sense_evidence.open_lexicon", lambda: lexicon)
    senses._choose_senses_cached.cache_clear()
    yield lexicon
    senses._choose_senses_cached.cache_clear()


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Write images for whole sweeps: four plain colors, 40 train and 10 test JPEGs of each."""
    return tiny.make_images(tmp_path_factory.mktemp("colors"))


@pytest.fixture(scope="session")
def color_teacher(tmp_path_factory):
    """Save a tiny CLIP that knows these colors by name."""
    return tiny.make_teacher(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="session")
def preset(tmp_path_factory, images, color_teacher):
    """Write a preset file for both, which takes seconds from end to end."""
    return tiny.write_preset(tmp_path_factory.mktemp("preset") / "tiny.yaml", images, color_teacher)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a real file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if result.returncode:
        pytest.skip(f"no file system can be mounted here: {result.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Return the folder that stands in for `s3://bucket`.

    Paths of its file system start with the name of the bucket, as in pyarrow's S3 file system.
    """
    from pyarrow import fs

    folder = tmp_path / "s3" / "bucket"
    folder.mkdir(parents=True)
    bucket_system = fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem())
    original_from_uri = fs.FileSystem.from_uri

    def from_uri(uri):
        if uri.startswith("s3://"):
            return bucket_system, uri.removeprefix("s3://")
        return original_from_uri(uri)

    file_system = _Patched(fs.FileSystem, from_uri=from_uri)
    monkeypatch.setattr("beamclip.stores.paths.fs", _Patched(fs, FileSystem=file_system))
    return folder


class _Patched:
    """Wrap an object and replace some of its attributes."""

    def __init__(self, inner, **others):
        self.__dict__ |= others
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def storage(tmp_path):
    """Return the path of a storage that does not exist yet."""
    return tmp_path / "storage"


@pytest.fixture
def complaint(capsys):
    """Return a function that runs a failing command, such as `complaint("train", …)`.

    It returns the error message without "beamclip: ", and asserts that nothing else was printed.
    """

    def call(*arguments):
        from beamclip.cli.main import main

        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("beamclip: ")
        return line.removeprefix("beamclip: ")

    return call


@pytest.fixture
def no_ray(monkeypatch):
    """Fail the test if anything starts Ray."""

    def refuse():
        raise AssertionError("Ray was started")

    monkeypatch.setattr("beamclip.distributed.cluster.connect", refuse)
    monkeypatch.setattr("beamclip.cli.doctor._check_ray", refuse)
    from beamclip.cli.doctor import CHECKS

    monkeypatch.setitem(CHECKS, "ray", lambda experiment: "left out")
