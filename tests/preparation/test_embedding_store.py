"""Embedding stores: the rows of a store, its shards, and the reuse of rows of other stores."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import RECIPES, TowerConfig, UserError
from beamclip.data import draw
from beamclip.data.augmentation.render import render
from beamclip.preparation.embedding_store import (
    EmbedJob,
    ReusableRows,
    embed,
    embedding_basis,
    embedding_parts,
    images_to_encode,
    rows_per_shard,
)
from beamclip.preparation.throughput import Throughput
from beamclip.stores import Shards, StoreDamaged, in_process, key_of, open_store, store_path
from beamclip.teachers import Embeddings, ViewSet, load_teacher
from beamclip.teachers.tower import images_encoded

IDS = np.arange(3, 160, 2)


def live(teacher, packed, recipe, ids, view, seed=0):
    """Encode these views again, drawn and rendered from sample and view ids alone."""
    images = torch.from_numpy(packed.read(ids))
    views = draw(RECIPES[recipe], ids, np.full(len(ids), view), seed)
    return teacher.encode_images(render(images, views, teacher.pixels)).numpy()


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def batches_of(size):
    """A measurement that finds this batch size."""
    return lambda teacher: Throughput(size, 0.0)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_stored_and_live_embeddings_agree_for_any_batch_size(
    teacher, packed, tmp_path, recipe, batch_size
):
    stored, _ = embed(
        teacher,
        packed,
        ViewSet(IDS[:20], RECIPES[recipe], 2, 5),
        tmp_path,
        measure=batches_of(batch_size),
    )
    ids = np.random.default_rng(0).permutation(IDS[:20])[:11]
    for view in (0, 1):
        got = stored.gather(ids, view)
        assert cosine(got, live(teacher, packed, recipe, ids, view, seed=5)).min() > 0.999
        assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 2e-3


@pytest.mark.parametrize("recipe", ["weak", "simclr"])
def test_other_views_seeds_or_samples_do_not_agree(teacher, packed, tmp_path, recipe):
    """Other views, seeds and samples have other embeddings. Otherwise agreement proves nothing."""
    stored, _ = embed(teacher, packed, ViewSet(IDS, RECIPES[recipe], 2, 5), tmp_path)
    first = stored.gather(IDS, 0)
    for ids, view, seed in ((IDS, 1, 5), (IDS, 0, 6), (IDS - 1, 0, 5)):
        assert np.median(cosine(first, live(teacher, packed, recipe, ids, view, seed))) < 0.995


def test_images_are_counted_when_encoded_and_encoded_once(teacher, packed, tmp_path):
    views = ViewSet(IDS, RECIPES["weak"], 3, 0)
    shown = []
    first, encoded = embed(
        teacher, packed, views, tmp_path, lambda *state: shown.append(state), measure=batches_of(5)
    )
    second, again = embed(teacher, packed, views, tmp_path)
    assert (encoded, again) == (79 * 3, 0)
    assert shown == [
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


@pytest.mark.slow
def test_a_pass_that_was_killed_resumes_and_ends_with_the_same_bytes(teacher, packed, tmp_path):
    views = ViewSet(np.arange(160), RECIPES["simclr"], 2, 0)
    whole, _ = embed(teacher, packed, views, tmp_path / "whole", measure=batches_of(7))
    with pytest.raises(KeyboardInterrupt):
        embed(
            teacher, packed, views, tmp_path / "killed", run=killed_after(1), measure=batches_of(7)
        )
    # The resumed pass uses the saved batch size, not this one.
    resumed, encoded = embed(teacher, packed, views, tmp_path / "killed", measure=batches_of(64))
    # The killed pass had already written its second shard, but not reported it.
    assert encoded == 2 * 32
    whole_path = whole.store.path
    resumed_path = resumed.store.path
    names = sorted(
        str(path.relative_to(whole_path))
        for path in whole_path.rglob("*")
        if path.is_file() and path.name != "stamps.json"
    )
    assert [name for name in names if name.startswith("rows")] == [
        f"rows-0000{n}.npy" for n in range(3)
    ]
    for name in names:
        assert (whole_path / name).read_bytes() == (resumed_path / name).read_bytes()


@pytest.mark.slow
def test_a_teacher_whose_weights_changed_under_the_same_name_gets_its_own_store(
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
    assert after.name == before.name and embedding_parts(after, packed, views) != embedding_parts(
        before, packed, views
    )
    assert embed(after, packed, views, tmp_path)[1] == 79
    # The folder's name is in no key.
    assert embedding_parts(teacher, packed, views) == embedding_parts(before, packed, views)


def test_embeddings_that_are_not_finite_are_a_user_error_and_leave_no_store(
    teacher_folder, packed, tmp_path
):
    teacher = load_teacher(TowerConfig(model=f"local-dir:{teacher_folder}"), torch.device("cpu"))
    teacher.model.visual.conv1.weight.data[:] = float("nan")
    views = ViewSet.center(IDS)
    with pytest.raises(UserError, match=r"zero or not finite; try teacher.precision=fp32"):
        embed(teacher, packed, views, tmp_path, measure=batches_of(64))
    assert not store_path(tmp_path, "embeddings", embedding_parts(teacher, packed, views)).exists()


@pytest.mark.parametrize(
    ("keep", "reason"),
    [(slice(-1), "bytes instead of"), (slice(None), "has changed since it was written")],
)
def test_damage_is_named_and_a_damaged_store_is_never_used(teacher, packed, tmp_path, keep, reason):
    views = ViewSet(IDS, RECIPES["weak"], 1, 0)
    path = embed(teacher, packed, views, tmp_path)[0].store.file("rows-00001.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[keep])
    for use in (lambda: embed(teacher, packed, views, tmp_path), lambda: open_store(path.parent)):
        with pytest.raises(
            StoreDamaged, match=f"rows-00001.npy .*{reason}.*; run again with --repair"
        ):
            use()


def test_a_store_of_an_older_format_is_a_user_error_and_encoded_again_with_repair(
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
def test_a_pass_that_fills_the_disk_is_a_user_error(teacher, packed, small_disk):
    """Shards of 64 samples with 100 views take 200 kB each."""
    views = ViewSet(np.arange(160), RECIPES["weak"], 100, 0)
    (small_disk / "filler").write_bytes(b"x" * 700_000)
    with pytest.raises(
        UserError, match=f"the disk of {small_disk}.* is full; finished shards are kept"
    ):
        embed(teacher, packed, views, small_disk, measure=batches_of(64))
    assert len(list(small_disk.glob("embeddings/.*.partial/shards/*.json"))) == 1
    (small_disk / "filler").unlink()
    assert embed(teacher, packed, views, small_disk)[1] == 96 * 100


def test_repair_encodes_only_damaged_shards(teacher, packed, tmp_path):
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
def test_a_large_pass_has_about_sixty_four_shards(samples, rows):
    assert rows_per_shard(samples) == rows


# The job, and how another process writes its shards.


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


def test_a_pickled_job_does_not_contain_the_teacher(job):
    sent = pickle.dumps(job)
    assert len(sent) < 3000
    received = pickle.loads(sent)
    assert received.loaded is None
    assert received.sizes == job.sizes and received.teacher == job.teacher


def test_another_process_loads_the_teacher_from_its_settings(job, tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "remote").mkdir()
    job.open(tmp_path / "local", 1)(1)
    threads = torch.get_num_threads()
    pickle.loads(pickle.dumps(job)).open(tmp_path / "remote", 1)(1)
    torch.set_num_threads(threads)
    local, remote = (np.load(tmp_path / name / "rows-00001.npy") for name in ("local", "remote"))
    assert local.shape == (36, 2, 16) and local.dtype == np.float16
    assert np.abs(local.astype(float) - remote).max() < 2e-3
    assert Shards(tmp_path / "remote").record(1)["rows"] == 36


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


# The reuse of rows: no teacher encodes a view of an image twice, for any store.


def weak_views(start, stop, count=2, seed=0):
    return ViewSet(np.arange(start, stop), RECIPES["weak"], count, seed)


@pytest.fixture
def ask(teacher, packed, tmp_path):
    """`ask(views)`: embeds and checks the planned count. Returns the store and images encoded."""

    def call(wanted):
        left = images_to_encode(teacher, packed, wanted, tmp_path)
        stored, encoded = embed(teacher, packed, wanted, tmp_path)
        assert encoded == left
        return stored, encoded

    return call


@pytest.mark.parametrize(
    ("wanted", "images"),
    [
        (weak_views(0, 100), 2 * 20),  # more samples
        (weak_views(0, 80, 3), 80),  # one more view of each
        (weak_views(40, 120, 3), 40 * 1 + 40 * 3),
        (weak_views(10, 30, 1), 0),  # all rows are in a store
        (weak_views(80, 160), 160),  # none of them
        (weak_views(0, 80, 2, seed=1), 160),  # entirely different views
    ],
)
def test_only_views_that_no_store_has_are_encoded(ask, wanted, images):
    assert ask(weak_views(0, 80))[1] == 160
    assert ask(wanted)[1] == images
    assert ask(wanted)[1] == 0


def test_copied_rows_are_the_stored_ones_and_the_rest_is_encoded(teacher, packed, ask, tmp_path):
    first, _ = ask(weak_views(0, 80))
    both, _ = ask(weak_views(40, 120, 3))
    alone, _ = embed(teacher, packed, weak_views(40, 120, 3), tmp_path / "elsewhere")
    held = np.arange(40, 80)
    for view in (0, 1):
        assert np.array_equal(both.gather(held, view), first.gather(held, view))
    for view in (0, 1, 2):
        cosines = (both.gather(both.ids, view) * alone.gather(both.ids, view)).sum(1)
        assert cosines.min() > 0.999


def test_rows_are_copied_from_several_stores(ask):
    ask(weak_views(0, 40))
    ask(weak_views(60, 100))
    assert ask(weak_views(0, 100))[1] == 2 * 20


def killed(job, shards, folder):
    """A runner that is killed after the first shard."""
    yield from in_process(job, list(shards)[:1], folder)
    raise KeyboardInterrupt


def test_a_resumed_build_copies_from_the_same_stores(teacher, packed, ask, tmp_path):
    """Another store that was finished in the meantime must not change the bytes."""
    ask(weak_views(0, 40))
    wanted = weak_views(0, 160)

    with pytest.raises(KeyboardInterrupt):
        embed(teacher, packed, wanted, tmp_path, run=killed)
    shutil.copytree(tmp_path, tmp_path.with_name("undisturbed"))
    ask(weak_views(100, 160))
    disturbed, encoded = ask(wanted)
    undisturbed, _ = embed(teacher, packed, wanted, tmp_path.with_name("undisturbed"))
    assert encoded == 2 * (160 - 64)
    assert np.array_equal(disturbed.all(), undisturbed.all())


def test_rows_are_not_copied_from_a_store_deleted_since_planning(teacher, packed, ask, tmp_path):
    first, _ = ask(weak_views(0, 40))
    basis = embedding_basis(teacher, packed, weak_views(0, 40))
    assert ReusableRows.find(tmp_path, basis, weak_views(0, 160)).paths == (first.store.path,)
    assert ReusableRows.from_keys(tmp_path, [first.key, "0123456789abcdef"]).paths == (
        first.store.path,
    )
    shutil.rmtree(first.store.path)
    assert ReusableRows.from_keys(tmp_path, [first.key]).paths == ()


def test_a_killed_pass_resumes_without_a_store_that_was_damaged_since(
    teacher, packed, ask, tmp_path
):
    first, _ = ask(weak_views(70, 110))
    with pytest.raises(KeyboardInterrupt):
        embed(teacher, packed, weak_views(0, 160), tmp_path, run=killed)
    rows = first.store.file("rows-00000.npy")
    rows.write_bytes(rows.read_bytes()[:-1])
    assert ask(weak_views(0, 160))[1] == 2 * (160 - 64)
