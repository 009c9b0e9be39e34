import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import RECIPES, TowerConfig, UserError
from beamclip.preparation.embedding_store import EmbedJob
from beamclip.stores import Shards, key_of
from beamclip.teachers import ViewSet, load_teacher
from beamclip.teachers.tower import images_encoded


@pytest.fixture
def job(teacher, packed):
    views = ViewSet(np.arange(100), RECIPES["weak"], 2, 0)
    return EmbedJob(
        packed.store.path,
        teacher.config,
        key_of(teacher.fingerprint),
        views,
        batch_size=16,
        shard_rows=64,
        loaded=teacher,
    )


def test_sizes_are_samples_times_views(job):
    assert job.sizes == [128, 72]


def test_travels_without_the_teacher(job):
    sent = pickle.dumps(job)
    assert len(sent) < 3000
    there = pickle.loads(sent)
    assert there.loaded is None and there.sizes == job.sizes and there.teacher == job.teacher


def test_elsewhere_it_loads_the_teacher_by_its_configuration(job, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    job.open(tmp_path / "here", 1)(1)
    threads = torch.get_num_threads()
    pickle.loads(pickle.dumps(job)).open(tmp_path / "there", 1)(1)
    torch.set_num_threads(threads)
    here, there = (np.load(tmp_path / name / "rows-00001.npy") for name in ("here", "there"))
    assert here.shape == (36, 2, 16) and here.dtype == np.float16
    assert np.abs(here.astype(float) - there).max() < 2e-3
    assert Shards(tmp_path / "there").record(1)["rows"] == 36


def test_every_image_is_counted(job, tmp_path):
    before = images_encoded()
    job.open(tmp_path, 1)(0)
    assert images_encoded() - before == 128


def test_other_weights_under_the_same_name_are_refused(teacher_folder, packed, tmp_path):
    folder = Path(shutil.copytree(teacher_folder, tmp_path / "clip"))
    teacher = load_teacher(TowerConfig(model=f"local-dir:{folder}"), torch.device("cpu"))
    job = EmbedJob(
        packed.store.path,
        teacher.config,
        key_of(teacher.fingerprint),
        ViewSet.center(np.arange(8)),
        8,
        64,
    )
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"] *= 2
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(
        UserError, match="has other weights on this node than on the first; give all nodes the same"
    ):
        job.open(tmp_path, torch.get_num_threads())
