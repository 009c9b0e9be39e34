import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import RECIPES, TowerConfig, UserError
from beamclip.data import draw
from beamclip.data.augmentation.render import render
from beamclip.preparation.embedding_store import embed, parts_of, shard_rows
from beamclip.preparation.throughput import Throughput
from beamclip.stores import StoreDamaged, in_process, open_store, store_path
from beamclip.teachers import Embeddings, ViewSet, load_teacher

IDS = np.arange(3, 160, 2)


def live(teacher, packed, recipe, ids, view, seed=0):
    """What the teacher says of these views, drawn and rendered again from nothing but their names."""
    images = torch.from_numpy(packed.read(ids))
    views = draw(RECIPES[recipe], ids, np.full(len(ids), view), seed)
    return teacher.encode_images(render(images, views, teacher.pixels)).numpy()


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def batches_of(size):
    return lambda teacher: Throughput(size, 0.0)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_stored_and_live_embeddings_agree_whatever_the_batch(
    teacher, packed, tmp_path, recipe, batch_size
):
    stored, _ = embed(
        teacher,
        packed,
        ViewSet(IDS[:20], RECIPES[recipe], 2, 5),
        tmp_path,
        pace=batches_of(batch_size),
    )
    ids = np.random.default_rng(0).permutation(IDS[:20])[:11]
    for view in (0, 1):
        got = stored.gather(ids, view)
        assert cosine(got, live(teacher, packed, recipe, ids, view, seed=5)).min() > 0.999
        assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 2e-3


@pytest.mark.parametrize("recipe", ["weak", "simclr"])
def test_the_agreement_is_that_view_s_alone(teacher, packed, tmp_path, recipe):
    """Another view, seed or sample gives another embedding: without this, the agreement would say nothing."""
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES[recipe], 2, 5), tmp_path)
    first = stored.gather(IDS, 0)
    for ids, view, seed in ((IDS, 1, 5), (IDS, 0, 6), (IDS - 1, 0, 5)):
        assert np.median(cosine(first, live(teacher, packed, recipe, ids, view, seed))) < 0.995


def test_images_are_counted_when_encoded_and_encoded_once(teacher, packed, tmp_path):
    views, seen = ViewSet(IDS, RECIPES["weak"], 3, 0), []
    first, encoded = embed(
        teacher, packed, views, tmp_path, lambda *state: seen.append(state), pace=batches_of(5)
    )
    second, again = embed(teacher, packed, views, tmp_path)
    assert (encoded, again) == (79 * 3, 0)
    assert seen == [
        ("teacher images", 0, 237),
        ("teacher images", 64 * 3, 237),
        ("teacher images", 237, 237),
    ]
    assert first.key == second.key and (first.width, first.views) == (16, 3)


def killed_after(count):
    def run(job, shards, folder):
        for number, index in enumerate(in_process(job, shards, folder)):
            if number == count:
                raise KeyboardInterrupt
            yield index

    return run


def test_a_pass_that_was_killed_goes_on_and_ends_with_the_same_bytes(teacher, packed, tmp_path):
    views = ViewSet(np.arange(160), RECIPES["simclr"], 2, 0)
    whole, _ = embed(teacher, packed, views, tmp_path / "whole", pace=batches_of(7))
    with pytest.raises(KeyboardInterrupt):
        embed(teacher, packed, views, tmp_path / "killed", run=killed_after(1), pace=batches_of(7))
    resumed, encoded = embed(
        teacher, packed, views, tmp_path / "killed", pace=batches_of(64)
    )  # goes on with what was decided
    assert encoded == 2 * 32  # the killed one had written its second shard, and only not told of it
    one, other = whole.store.path, resumed.store.path
    names = sorted(
        str(path.relative_to(one))
        for path in one.rglob("*")
        if path.is_file() and path.name != "stamps.json"
    )
    assert [name for name in names if name.startswith("rows")] == [
        f"rows-0000{n}.npy" for n in range(3)
    ]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_teacher_whose_weights_changed_under_the_same_name_gets_a_store_of_its_own(
    teacher, teacher_folder, packed, tmp_path
):
    folder = shutil.copytree(teacher_folder, tmp_path / "clip")
    config = TowerConfig(model=f"local-dir:{folder}")
    views, before = ViewSet.center(IDS), load_teacher(config, torch.device("cpu"))
    assert embed(before, packed, views, tmp_path)[1] == 79
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] += 1e-6
    save_file(weights, folder / "open_clip_model.safetensors")
    after = load_teacher(config, torch.device("cpu"))
    assert after.name == before.name and parts_of(after, packed, views) != parts_of(
        before, packed, views
    )
    assert embed(after, packed, views, tmp_path)[1] == 79
    assert parts_of(teacher, packed, views) == parts_of(
        before, packed, views
    )  # the folder's name is in no key


def test_embeddings_that_are_not_numbers_are_a_sentence_and_no_store(
    teacher_folder, packed, tmp_path
):
    teacher = load_teacher(TowerConfig(model=f"local-dir:{teacher_folder}"), torch.device("cpu"))
    teacher.model.visual.conv1.weight.data[:] = float("nan")
    views = ViewSet.center(IDS)
    with pytest.raises(UserError, match=r"zero or not finite; try teacher.precision=fp32"):
        embed(teacher, packed, views, tmp_path, pace=batches_of(64))
    assert not store_path(tmp_path, "embeddings", parts_of(teacher, packed, views)).exists()


@pytest.mark.parametrize(
    ("keep", "says"),
    [(slice(-1), "bytes instead of"), (slice(None), "has changed since it was written")],
)
def test_damage_is_named_and_a_damaged_store_is_never_used(teacher, packed, tmp_path, keep, says):
    views = ViewSet(IDS, RECIPES["weak"], 1, 0)
    path = embed(teacher, packed, views, tmp_path)[0].store.file("rows-00001.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[keep])
    for use in (lambda: embed(teacher, packed, views, tmp_path), lambda: open_store(path.parent)):
        with pytest.raises(
            StoreDamaged, match=f"rows-00001.npy .*{says}.*; run again with --repair"
        ):
            use()


def test_a_store_of_an_older_format_is_a_sentence_and_encoded_anew_with_repair(
    teacher, packed, tmp_path
):
    views = ViewSet(IDS, RECIPES["weak"], 1, 0)
    manifest = embed(teacher, packed, views, tmp_path)[0].store.file("manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(
        UserError, match="has store format 1, but 2 is read here; run again with --repair"
    ):
        embed(teacher, packed, views, tmp_path)
    assert embed(teacher, packed, views, tmp_path, repair=True)[1] == 79


@pytest.mark.slow
def test_a_pass_onto_a_disk_that_is_too_small(teacher, packed, small_disk):
    """Shards of 64 samples with 100 views take 200 kB each."""
    views = ViewSet(np.arange(160), RECIPES["weak"], 100, 0)
    (small_disk / "filler").write_bytes(b"x" * 700_000)
    with pytest.raises(
        UserError, match=f"the disk of {small_disk}.* is full; finished shards are kept"
    ):
        embed(teacher, packed, views, small_disk, pace=batches_of(64))
    assert len(list(small_disk.glob("embeddings/.*.partial/shards/*.json"))) == 1
    (small_disk / "filler").unlink()
    assert embed(teacher, packed, views, small_disk)[1] == 96 * 100


def test_repair_encodes_what_is_damaged_and_nothing_else(teacher, packed, tmp_path):
    views = ViewSet(IDS, RECIPES["weak"], 1, 0)
    stored, _ = embed(teacher, packed, views, tmp_path)
    path = stored.store.file("rows-00001.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x00")
    again, encoded = embed(teacher, packed, views, tmp_path, repair=True)
    assert encoded == 15 and again.store.file("rows-00001.npy").read_bytes() == whole
    assert isinstance(again, Embeddings)


@pytest.mark.parametrize(
    ("samples", "rows"), [(1, 64), (4096, 64), (4097, 128), (50_000, 832), (1_281_167, 4096)]
)
def test_shards_are_about_sixty_four(samples, rows):
    assert shard_rows(samples) == rows
