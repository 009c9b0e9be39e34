import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import RECIPES, TeacherConfig, UserError
from beamclip.data import draw, render
from beamclip.stores import store_path
from beamclip.teachers import Embeddings, ViewSet, embed, embeddings, load_teacher

IDS = np.arange(3, 60, 3)  # 19 of the samples, so that a row is not an id


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(embeddings, "SHARD_ROWS", 8)


def live(teacher, packed, recipe, ids, view, seed=0):
    """What the teacher says of these views, drawn and rendered again from nothing but their names."""
    images = torch.from_numpy(packed.read(ids))
    views = draw(RECIPES[recipe], ids, np.full(len(ids), view), seed)
    return teacher.encode_images(render(images, views, teacher.pixels)).numpy()


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("recipe", ["center", "weak", "simclr"])
def test_stored_and_live_embeddings_agree_whatever_the_batch(teacher, packed, tmp_path, small_shards, recipe, batch_size):
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES[recipe], 2, 5), tmp_path, batch_size)
    ids = np.random.default_rng(0).permutation(IDS)[:11]
    for view in (0, 1):
        got = stored.gather(ids, view)
        assert got.dtype == np.float32
        assert cosine(got, live(teacher, packed, recipe, ids, view, seed=5)).min() > 0.999
        assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 2e-3


@pytest.mark.parametrize("recipe", ["weak", "simclr"])
def test_the_agreement_is_that_view_s_alone(teacher, packed, tmp_path, recipe):
    """Another view, seed or sample gives another embedding: without this, the agreement would say nothing."""
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES[recipe], 2, 5), tmp_path, 64)
    first = stored.gather(IDS, 0)
    for ids, view, seed in ((IDS, 1, 5), (IDS, 0, 6), (IDS + 1, 0, 5)):
        assert np.median(cosine(first, live(teacher, packed, recipe, ids, view, seed))) < 0.995


def test_images_are_counted_when_encoded_and_encoded_once(teacher, packed, tmp_path, small_shards):
    views, seen = ViewSet(IDS, RECIPES["weak"], 3, 0), []
    first, encoded = embed(teacher, packed, views, tmp_path, 5, lambda label, done, total: seen.append((label, done, total)))
    second, again = embed(teacher, packed, views, tmp_path, 64)
    assert (encoded, again) == (len(IDS) * 3, 0)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("teacher", len(IDS) * 3, len(IDS) * 3)
    assert first.key == second.key
    assert (first.width, first.views) == (16, 3)


def test_rows_are_found_by_id_in_any_order(teacher, packed, tmp_path, small_shards):
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES["weak"], 1, 0), tmp_path, 64)
    whole = dict(zip(IDS.tolist(), stored.gather(IDS, 0), strict=True))
    some = np.array([57, 3, 30, 3, 27, 24])  # first and last row, both sides of a shard's edge, one of them twice
    assert np.array_equal(stored.gather(some, 0), np.stack([whole[i] for i in some.tolist()]))


@pytest.mark.parametrize("unknown", [0, 4, 58, 60, -3])
def test_an_unknown_id_is_an_error(teacher, packed, tmp_path, unknown):
    stored, _ = embed(teacher, packed, ViewSet.center(IDS), tmp_path, 64)
    with pytest.raises(ValueError, match="not in the embedding store"):
        stored.gather(np.array([3, unknown]), 0)


def test_views_repeat_after_the_stored_ones(teacher, packed, tmp_path):
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES["simclr"], 2, 0), tmp_path, 64)
    assert np.array_equal(stored.gather(IDS, 7), stored.gather(IDS, 1))
    assert not np.allclose(stored.gather(IDS, 0), stored.gather(IDS, 1))


class DyingTeacher:
    """A teacher whose process is killed after so many images."""

    def __init__(self, teacher, images):
        self._teacher, self.left = teacher, images

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def encode_images(self, images):
        self.left -= len(images)
        if self.left < 0:
            raise KeyboardInterrupt
        return self._teacher.encode_images(images)


def test_a_pass_that_was_killed_goes_on_and_ends_with_the_same_bytes(teacher, packed, tmp_path, small_shards):
    views = ViewSet(IDS, RECIPES["simclr"], 2, 0)
    whole, _ = embed(teacher, packed, views, tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        embed(DyingTeacher(teacher, images=30), packed, views, tmp_path / "killed", 4)  # shards have 16, 16 and 6 images
    resumed, encoded = embed(teacher, packed, views, tmp_path / "killed", 4)
    assert encoded == 16 + 6
    one, other = tmp_path / "whole" / "embeddings" / whole.key, tmp_path / "killed" / "embeddings" / resumed.key
    files = sorted(file.name for file in one.iterdir())
    assert files == ["ids.npy", "manifest.json", "rows-00000.npy", "rows-00001.npy", "rows-00002.npy"]
    assert sorted(file.name for file in other.iterdir()) == files
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_changed_teacher_weight_gives_another_key(teacher, teacher_folder, packed, tmp_path):
    folder = shutil.copytree(teacher_folder, tmp_path / "other")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] += 1e-6
    save_file(weights, folder / "open_clip_model.safetensors")
    other = load_teacher(TeacherConfig(model=f"local-dir:{folder}"), torch.device("cpu"))
    views = ViewSet.center(IDS)
    assert embed(teacher, packed, views, tmp_path, 64)[0].key != embed(other, packed, views, tmp_path, 64)[0].key


def test_the_views_are_in_the_key_and_a_seed_only_where_it_matters():
    views = ViewSet(IDS, RECIPES["weak"], 2, 0)
    others = [{"ids": IDS[:-1]}, {"recipe": RECIPES["simclr"]}, {"count": 3}, {"seed": 1}]
    assert all(dataclasses.replace(views, **other).parts() != views.parts() for other in others)
    still = ViewSet.center(IDS)
    assert dataclasses.replace(still, seed=1).parts() == still.parts()


def test_embeddings_that_are_not_numbers_are_a_sentence_and_no_store(teacher, packed, tmp_path):
    class BrokenTeacher(DyingTeacher):
        def encode_images(self, images):
            return self._teacher.encode_images(images) * float("nan")

    with pytest.raises(UserError, match=r"zero or not finite; try teacher.precision=fp32"):
        embed(BrokenTeacher(teacher, 0), packed, ViewSet.center(IDS), tmp_path, 64)
    parts = {"images": packed.key, "teacher": teacher.fingerprint, **ViewSet.center(IDS).parts()}
    assert not store_path(tmp_path, "embeddings", parts).exists()
    assert isinstance(embed(teacher, packed, ViewSet.center(IDS), tmp_path, 64)[0], Embeddings)
