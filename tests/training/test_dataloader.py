import numpy as np
import pytest
import torch

from beamclip.config import RECIPES, with_values
from beamclip.data import draw, pack
from beamclip.data.augmentation.render import render
from beamclip.preparation.assets import open_assets
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.teachers.tower import images_encoded
from beamclip.training import dataloader
from beamclip.training.context import Context
from beamclip.training.dataloader import (
    LiveTeacher,
    MappedEmbeddings,
    MappedImages,
    ResidentEmbeddings,
    ResidentImages,
    epoch_order,
    fits_device_memory,
    rank_batches,
)
from beamclip.training.setup import build_run

CPU = torch.device("cpu")
IDS = np.arange(10, 110)


def test_the_order_is_a_permutation_that_depends_only_on_seed_and_epoch():
    order = epoch_order(IDS, 3, 7)
    np.random.seed(0)
    epoch_order(IDS, 3, 6)
    assert np.array_equal(epoch_order(IDS, 3, 7), order)
    assert np.array_equal(np.sort(order), IDS)
    for other in (epoch_order(IDS, 3, 8), epoch_order(IDS, 4, 7), epoch_order(IDS, 7, 3)):
        assert not np.array_equal(other, order)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_ranks_together_have_the_same_global_batches_as_one_worker(workers):
    order = epoch_order(IDS, 0, 0)
    # The last 4 samples of 100 fill no batch.
    alone = [order[start : start + 16] for start in (0, 16, 32, 48, 64, 80)]
    shares = [list(rank_batches(order, 16, rank, workers)) for rank in range(workers)]
    together = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
    assert [batch.tolist() for batch in together] == [batch.tolist() for batch in alone]


@pytest.mark.parametrize(("samples", "batches"), [(15, 0), (16, 1), (31, 1), (32, 2)])
def test_an_incomplete_batch_is_left_out(samples, batches):
    assert len(list(rank_batches(IDS[:samples], 16, 1, 2))) == batches


@pytest.fixture
def opened(experiment, assets):
    return open_assets(assets, experiment.data)


def shuffled(ids, count=40):
    return np.random.default_rng(0).permutation(ids)[:count]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_resident_images_are_the_mapped_ones_bit_by_bit(
    data_config, tmp_path, monkeypatch, encoding
):
    monkeypatch.setattr(dataloader, "_CHUNK", 50)
    images = pack(data_config.model_copy(update={"encoding": encoding}), tmp_path)
    # Without some ids, rows differ from ids.
    train = np.setdiff1d(images.train_ids, [0, 3, 77])
    mapped, resident = MappedImages(images, CPU), ResidentImages(images, train, CPU)
    ids = shuffled(train)
    assert mapped.read(ids).dtype == torch.uint8 and mapped.read(ids).shape == (40, 32, 32, 3)
    assert torch.equal(mapped.read(ids), resident.read(ids))
    assert torch.equal(mapped.read(train), resident.read(train))


def test_resident_embeddings_are_the_mapped_ones_bit_by_bit(opened):
    views, ids = opened.teachers[0].views, shuffled(opened.splits.train)
    mapped, resident = MappedEmbeddings(views, CPU), ResidentEmbeddings(views, CPU)
    for view in (0, 1):
        rows = mapped.read(ids, view, None, None)
        assert rows.dtype == torch.float32 and rows.shape == (40, 16)
        assert torch.equal(rows, resident.read(ids, view, None, None))
        assert np.array_equal(rows.numpy(), views.gather(ids, view))
    assert not torch.equal(mapped.read(ids, 0, None, None), mapped.read(ids, 1, None, None))


def test_the_requested_samples_are_read_from_a_larger_store(experiment, stores, assets):
    """A store may hold more samples than a run needs; its rows are found by id."""
    fewer = with_values(experiment, {"data.train_images": 32})
    opened = open_assets(prepare(fewer, PreparationContext(stores)), fewer.data)
    views, ids = opened.teachers[0].views, opened.splits.train
    assert (len(views.ids), len(ids)) == (128, 32)
    whole = dict(zip(views.ids.tolist(), views.all()[:, 1], strict=True))
    expected = np.stack([whole[sample] for sample in ids.tolist()]).astype(np.float32)
    for reader in (MappedEmbeddings(views, CPU), ResidentEmbeddings(views, CPU)):
        assert np.array_equal(reader.read(ids, 1, None, None).numpy(), expected)


def test_a_live_teacher_gets_the_same_view_at_its_own_size(opened, teacher):
    ids = shuffled(opened.splits.train, 9)
    images = torch.from_numpy(opened.packed.read(ids))
    parameters = draw(RECIPES["simclr"], ids, np.full(9, 11), 5)
    before = images_encoded()
    embeddings = LiveTeacher(teacher).read(ids, 11, images, parameters)
    assert images_encoded() - before == 9
    assert torch.equal(
        embeddings, teacher.encode_images(render(images, parameters, teacher.pixels))
    )
    # Raises for a tensor of inference mode, from which no loss can be computed.
    embeddings.requires_grad_()


def test_nothing_is_resident_on_a_device_without_memory_of_its_own():
    assert not fits_device_memory(1, CPU)


def runs(experiment, assets):
    """The same run, mapped and resident."""
    return [
        build_run(with_values(experiment, {"scaling.resident": resident}), assets, Context())
        for resident in ("never", "always")
    ]


def same_batches(mapped, resident, epochs):
    for epoch in epochs:
        pairs = list(zip(mapped.batches(epoch), resident.batches(epoch), strict=True))
        assert len(pairs) == mapped.steps_per_epoch > 0
        for first, second in pairs:
            assert torch.equal(first.images, second.images)
            for teacher, same_teacher in zip(first.teachers, second.teachers, strict=True):
                assert torch.equal(teacher, same_teacher)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [{}, {"views.teacher": "center", "views.recipe": "simclr"}, {"data.encoding": "jpeg"}]
)
def test_a_resident_run_has_the_same_batches_bit_by_bit(experiment, stores, values):
    cell = with_values(experiment, values)
    mapped, resident = runs(cell, prepare(cell, PreparationContext(stores)))
    assert isinstance(mapped.loader.images, MappedImages) and isinstance(
        mapped.loader.teachers[0], MappedEmbeddings
    )
    assert isinstance(resident.loader.images, ResidentImages) and isinstance(
        resident.loader.teachers[0], ResidentEmbeddings
    )
    same_batches(mapped, resident, (0, 1, 2))


def test_two_teachers_are_resident_too(experiment, stores, other_folder):
    cell = with_values(experiment, {"teacher.others": [{"model": f"local-dir:{other_folder}"}]})
    mapped, resident = runs(cell, prepare(cell, PreparationContext(stores)))
    assert [type(reader) for reader in resident.loader.teachers] == [ResidentEmbeddings] * 2
    same_batches(mapped, resident, (1,))


def test_by_default_a_cpu_reads_from_memory_maps(experiment, assets):
    run = build_run(experiment, assets, Context())
    assert isinstance(run.loader.images, MappedImages) and isinstance(
        run.loader.teachers[0], MappedEmbeddings
    )
