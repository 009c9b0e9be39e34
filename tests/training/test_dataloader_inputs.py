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
from beamclip.training import dataloader as inputs
from beamclip.training.context import Context
from beamclip.training.dataloader import (
    LiveTeacher,
    MappedEmbeddings,
    MappedImages,
    ResidentEmbeddings,
    ResidentImages,
    fits,
)
from beamclip.training.setup import build_run

CPU = torch.device("cpu")


@pytest.fixture
def opened(experiment, assets):
    return open_assets(assets, experiment.data)


def shuffled(ids, count=40):
    return np.random.default_rng(0).permutation(ids)[:count]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_resident_images_are_the_mapped_ones_bit_by_bit(
    data_config, tmp_path, monkeypatch, encoding
):
    monkeypatch.setattr(inputs, "_CHUNK", 50)
    images = pack(data_config.model_copy(update={"encoding": encoding}), tmp_path)
    train = np.setdiff1d(images.train_ids, [0, 3, 77])  # so that a row is not an id
    mapped, resident = MappedImages(images, CPU), ResidentImages(images, train, CPU)
    ids = shuffled(train)
    assert mapped.take(ids).dtype == torch.uint8 and mapped.take(ids).shape == (40, 32, 32, 3)
    assert torch.equal(mapped.take(ids), resident.take(ids))
    assert torch.equal(mapped.take(train), resident.take(train))


def test_resident_embeddings_are_the_mapped_ones_bit_by_bit(opened):
    views, ids = opened.teachers[0].views, shuffled(opened.splits.train)
    mapped, resident = MappedEmbeddings(views, CPU), ResidentEmbeddings(views, CPU)
    for view in (0, 1):
        rows = mapped.take(ids, view, None, None)
        assert rows.dtype == torch.float32 and rows.shape == (40, 16)
        assert torch.equal(rows, resident.take(ids, view, None, None))
        assert np.array_equal(rows.numpy(), views.gather(ids, view))
    assert not torch.equal(mapped.take(ids, 0, None, None), mapped.take(ids, 1, None, None))


def test_a_larger_store_gives_the_samples_asked_for(experiment, stores, assets):
    """A store may cover more than a run wants; its rows are found by id."""
    fewer = with_values(experiment, {"data.train_images": 32})
    opened = open_assets(prepare(fewer, PreparationContext(stores)), fewer.data)
    views, ids = opened.teachers[0].views, opened.splits.train
    assert (len(views.ids), len(ids)) == (128, 32)
    whole = dict(zip(views.ids.tolist(), views.all()[:, 1], strict=True))
    expected = np.stack([whole[sample] for sample in ids.tolist()]).astype(np.float32)
    for side in (MappedEmbeddings(views, CPU), ResidentEmbeddings(views, CPU)):
        assert np.array_equal(side.take(ids, 1, None, None).numpy(), expected)


def test_a_live_teacher_sees_the_very_view_at_its_own_size(opened, teacher):
    ids = shuffled(opened.splits.train, 9)
    images = torch.from_numpy(opened.packed.read(ids))
    parameters = draw(RECIPES["simclr"], ids, np.full(9, 11), 5)
    before = images_encoded()
    embeddings = LiveTeacher(teacher).take(ids, 11, images, parameters)
    assert images_encoded() - before == 9
    assert torch.equal(
        embeddings, teacher.encode_images(render(images, parameters, teacher.pixels))
    )
    embeddings.requires_grad_()  # not a tensor of inference mode, which no loss could be taken of


def test_nothing_stays_in_the_memory_of_a_device_that_has_none_of_its_own():
    assert not fits(1, CPU)


def runs(experiment, assets):
    """The same run, reading from memory maps and from memory."""
    return [
        build_run(with_values(experiment, {"scaling.resident": wish}), assets, Context())
        for wish in ("never", "always")
    ]


def same_batches(mapped, resident, epochs):
    for epoch in epochs:
        pairs = list(zip(mapped.batches(epoch), resident.batches(epoch), strict=True))
        assert len(pairs) == mapped.steps_per_epoch > 0
        for one, other in pairs:
            assert torch.equal(one.images, other.images)
            assert all(torch.equal(a, b) for a, b in zip(one.teachers, other.teachers, strict=True))


@pytest.mark.parametrize(
    "values", [{}, {"views.teacher": "center", "views.recipe": "simclr"}, {"data.encoding": "jpeg"}]
)
def test_a_resident_run_has_the_same_batches_bit_by_bit(experiment, stores, values):
    cell = with_values(experiment, values)
    mapped, resident = runs(cell, prepare(cell, PreparationContext(stores)))
    assert isinstance(mapped.feed.images, MappedImages) and isinstance(
        mapped.feed.teachers[0], MappedEmbeddings
    )
    assert isinstance(resident.feed.images, ResidentImages) and isinstance(
        resident.feed.teachers[0], ResidentEmbeddings
    )
    same_batches(mapped, resident, (0, 1, 2))


def test_two_teachers_are_resident_too(experiment, stores, other_folder):
    cell = with_values(experiment, {"teacher.others": [{"model": f"local-dir:{other_folder}"}]})
    mapped, resident = runs(cell, prepare(cell, PreparationContext(stores)))
    assert [type(side) for side in resident.feed.teachers] == [ResidentEmbeddings] * 2
    same_batches(mapped, resident, (1,))


def test_by_itself_a_cpu_reads_from_memory_maps(experiment, assets):
    run = build_run(experiment, assets, Context())
    assert isinstance(run.feed.images, MappedImages) and isinstance(
        run.feed.teachers[0], MappedEmbeddings
    )
