"""Shards through a real Ray Data pool: the same bytes as in one process, and readable errors."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from beamclip.config import RECIPES, TowerConfig, UserError
from beamclip.data import pack
from beamclip.distributed.shard_pool import PoolSize, find_user_error, pool_size
from beamclip.preparation.embedding_store import embed
from beamclip.stores import Shards
from beamclip.teachers import ViewSet, load_teacher


def test_packing_takes_every_core_and_a_teacher_every_gpu():
    assert pool_size(False, {"CPU": 16.0, "GPU": 2.0}) == PoolSize(16, 16, 1, 0)
    assert pool_size(True, {"CPU": 16.0, "GPU": 2.0}) == PoolSize(1, 2, 4, 1)


def test_without_gpus_a_teacher_takes_up_to_four_cores():
    assert pool_size(True, {"CPU": 2.0}) == PoolSize(1, 1, 2, 0)
    assert pool_size(True, {"CPU": 16.0}) == PoolSize(1, 4, 4, 0)
    assert pool_size(True, {}) == PoolSize(1, 1, 1, 0)


def test_the_number_of_teachers_can_be_given():
    assert pool_size(True, {"CPU": 8.0}, (2, 4)) == PoolSize(2, 4, 2, 0)
    assert pool_size(False, {"CPU": 8.0}, (2, 4)) == PoolSize(8, 8, 1, 0)


def test_a_user_error_is_found_inside_rays_exceptions():
    inner = UserError("say this")
    middle = RuntimeError("task failed")
    middle.cause = inner
    outer = RuntimeError("actor failed")
    outer.__cause__ = middle
    assert str(find_user_error(outer)) == "say this"
    assert find_user_error(RuntimeError("no sentence")) is None


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ["RAY_ADDRESS"] = "local"
    ray.init(num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Numbers:
    """A job of six shards that writes its number, and fails at one of them."""

    fail_at: int = -1
    error: str = "user"
    label: str = "numbers"
    sizes: tuple[int, ...] = (1,) * 6
    on_device: bool = False

    def open(self, folder, threads):
        def write(index):
            if index == self.fail_at:
                raise (
                    UserError("shard three is no good")
                    if self.error == "user"
                    else OSError(28, "No space left on device")
                )
            temporary = folder / f"{index}.tmp"
            temporary.write_text(f"{index} in {threads}")
            Shards(folder).finish(index, {f"{index}.txt": temporary}, {"index": index})

        return write


@pytest.mark.ray
def test_a_pool_that_holds_the_only_gpu_finishes(cluster, tmp_path):
    """Ray only counts this GPU: the test is whether Ray Data assigns it."""
    from beamclip.distributed.shard_pool import ClusterRunner

    assert sorted(ClusterRunner()(Numbers(on_device=True), range(6), tmp_path)) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.ray
def test_every_shard_is_written_once_and_yielded(cluster, tmp_path):
    from beamclip.distributed.shard_pool import ClusterRunner

    assert sorted(ClusterRunner()(Numbers(), range(6), tmp_path)) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "5.txt").read_text() == "5 in 1"
    assert all(Shards(tmp_path).record(index) for index in range(6))
    assert list(ClusterRunner()(Numbers(), [], tmp_path)) == []


@pytest.mark.ray
@pytest.mark.parametrize(
    ("error", "sentence"),
    [("user", "^shard three is no good$"), ("full", "is full; finished shards are kept")],
)
def test_an_error_in_an_actor_arrives_as_one_sentence(cluster, tmp_path, error, sentence):
    from beamclip.distributed.shard_pool import ClusterRunner

    with pytest.raises(UserError, match=sentence):
        list(ClusterRunner()(Numbers(3, error), range(6), tmp_path))


def files_of(store):
    """Content of all files but `stamps.json`, which holds times."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != "stamps.json"
    }


@pytest.mark.ray
def test_packing_on_the_cluster_gives_the_same_bytes_as_here(cluster, data_config, tmp_path):
    from beamclip.distributed.shard_pool import ClusterRunner

    here = pack(data_config, tmp_path / "here")
    there = pack(data_config, tmp_path / "there", run=ClusterRunner())
    assert len(files_of(here.store.path)) > 6
    assert files_of(here.store.path) == files_of(there.store.path)


@pytest.mark.ray
def test_two_teachers_on_the_cluster_agree_with_one_here(cluster, teacher, packed, tmp_path):
    from beamclip.distributed.shard_pool import ClusterRunner

    views, seen = ViewSet(np.arange(160), RECIPES["simclr"], 2, 0), []
    here, _ = embed(teacher, packed, views, tmp_path / "here")
    runner = ClusterRunner(actors=(2, 2))
    there, encoded = embed(
        teacher, packed, views, tmp_path / "there", lambda *state: seen.append(state), runner
    )
    assert (
        encoded == 320
        and seen[0] == ("teacher images", 0, 320)
        and seen[-1] == ("teacher images", 320, 320)
    )
    for view in (0, 1):
        cosines = (here.gather(views.ids, view) * there.gather(views.ids, view)).sum(1)
        assert cosines.min() > 0.999


@pytest.mark.ray
def test_a_node_with_other_weights_under_the_same_name_is_found(
    cluster, teacher_folder, packed, tmp_path
):
    """The job has its teacher's fingerprint; a process that loads other weights must not write."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    from beamclip.distributed.shard_pool import ClusterRunner

    folder = Path(shutil.copytree(teacher_folder, tmp_path / "clip"))
    teacher = load_teacher(TowerConfig(model=f"local-dir:{folder}"), torch.device("cpu"))
    assert teacher.fingerprint
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"] *= -1
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="has other weights on this node than on the first"):
        embed(
            teacher, packed, ViewSet.center(np.arange(64)), tmp_path / "stores", run=ClusterRunner()
        )
