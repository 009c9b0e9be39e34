"""Small real things that the tests of several rooms share, made once a session. Nothing may write into them."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny tensors gain nothing from threads, and colleagues share the cores

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
    """What starts a Ray comes first, being longest."""
    items.sort(key=lambda item: not _starts_ray(item.nodeid))


def pytest_xdist_make_scheduler(config, log):
    """Two processes share the tests out by files; all that start a Ray are one file to them, since two Rays on one machine get in each
    other's way."""
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
    """A whole CLIP of random weights in open_clip's format, which open_clip itself loads."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP)
        model.visual.conv1.weight.data *= (
            20  # as drawn, it hardly sees the image and calls them all the same
        )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": TINY_PIXELS})
    )
    return folder


@pytest.fixture(scope="session")
def data_config(tmp_path_factory):
    """A folder tree of four classes, 40 images for train and val and 8 for test each: smooth, tinted by class, 40 x 36."""
    from beamclip.config import DataConfig

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
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
                Image.fromarray(blobs).resize((40, 36), Image.Resampling.BICUBIC).save(
                    folder / split / name / f"{number:02}.png"
                )
    return DataConfig(source="folder", path=str(folder), image_size=32, val_fraction=0.2)


@pytest.fixture(scope="session")
def packed(data_config, tmp_path_factory):
    """The same images, packed: 160 for train and val, 32 for test."""
    from beamclip.data import pack

    return pack(data_config, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def teacher(teacher_folder):
    """The tiny CLIP, loaded as any other."""
    import torch

    from beamclip.config import TeacherConfig
    from beamclip.teachers import load_teacher

    return load_teacher(TeacherConfig(model=f"local-dir:{teacher_folder}"), torch.device("cpu"))


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch):
    """No test reads the user's own storage, cache, tracking server or cluster."""
    for name in ("BEAMCLIP_STORAGE", "BEAMCLIP_CACHE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.fixture
def excerpt(monkeypatch):
    """Senses come from the package's own excerpt, whether or not WordNet is installed here."""
    from beamclip.anchors import senses as meanings
    from beamclip.anchors.wordnet import Excerpt

    lexicon = Excerpt()
    monkeypatch.setattr(meanings, "open_lexicon", lambda: lexicon)
    monkeypatch.setattr("beamclip.preparation.sense_evidence.open_lexicon", lambda: lexicon)
    meanings._choose_senses_cached.cache_clear()
    yield lexicon
    meanings._choose_senses_cached.cache_clear()


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Whole sweeps read these: four classes of plain colours, 40 train and 10 test JPEGs each."""
    return tiny.make_images(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def colour_teacher(tmp_path_factory):
    """A tiny CLIP that knows these colours by name."""
    return tiny.make_teacher(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="session")
def preset(tmp_path_factory, images, colour_teacher):
    """A preset file over both: seconds from end to end."""
    return tiny.write_preset(
        tmp_path_factory.mktemp("preset") / "tiny.yaml", images, colour_teacher
    )


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """What `s3://bucket` is, as a folder: a file system of its own kind, whose paths begin with the bucket's name, as pyarrow's do."""
    from pyarrow import fs

    folder = tmp_path / "s3" / "bucket"
    folder.mkdir(parents=True)
    system, known = (
        fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem()),
        fs.FileSystem.from_uri,
    )

    def from_uri(uri):
        return (system, uri.removeprefix("s3://")) if uri.startswith("s3://") else known(uri)

    monkeypatch.setattr(
        "beamclip.stores.paths.fs", _With(fs, FileSystem=_With(fs.FileSystem, from_uri=from_uri))
    )
    return folder


class _With:
    """Something with other attributes over its own."""

    def __init__(self, inner, **others):
        self.__dict__ |= others
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def complaint(capsys):
    """`complaint("train", …)`: what is wrong, without the leading word; asserts that nothing else was said."""

    def call(*arguments):
        from beamclip.cli.main import main

        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert caught.value.code == 2
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("beamclip: ")
        return line.removeprefix("beamclip: ")

    return call


@pytest.fixture
def no_ray(monkeypatch):
    """Nothing may get as far as starting one."""

    def refuse():
        raise AssertionError("Ray was started")

    monkeypatch.setattr("beamclip.distributed.cluster.connect", refuse)
    monkeypatch.setattr("beamclip.cli.doctor._check_ray", refuse)
    from beamclip.cli.doctor import CHECKS

    monkeypatch.setitem(CHECKS, "ray", lambda experiment: "left out")
