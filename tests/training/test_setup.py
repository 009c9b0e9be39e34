from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from beamclip.config import RECIPES, StudentConfig, with_values
from beamclip.config.objective_registry import built_in_objectives
from beamclip.data import draw
from beamclip.data.augmentation.render import render
from beamclip.objectives.simclr import SimCLR, SimclrSettings
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.students import build_student
from beamclip.training.context import Context
from beamclip.training.setup import TrainModule, build_run, convert_sync_batchnorms


def rendered(run, ids, view, pixels):
    views = draw(RECIPES["weak"], ids, np.full(len(ids), view), 0)
    return render(torch.from_numpy(run.opened.packed.read(ids)), views, pixels)


@pytest.mark.parametrize(("epoch", "view"), [(0, 0), (1, 1), (2, 0), (5, 1)])
def test_student_and_teacher_get_the_same_view_and_views_cycle(
    experiment, assets, teacher, epoch, view
):
    run = build_run(experiment, assets, Context())
    ids = run.opened.splits.train[[7, 3, 100, 50]]
    batch = run.loader.make_batch(epoch, ids)
    assert torch.equal(batch.images, rendered(run, ids, view, run.pixels))
    live = teacher.encode_images(rendered(run, ids, view, teacher.pixels))
    (stored,) = batch.teachers
    assert torch.cosine_similarity(stored, live).min() > 0.999


def test_with_canonical_teacher_views_every_epoch_draws_new_student_views(
    experiment, stores, teacher
):
    canonical = with_values(experiment, {"views.teacher": "center"})
    run = build_run(canonical, prepare(canonical, PreparationContext(stores)), Context())
    ids = run.opened.splits.train[[7, 3]]
    first, later = run.loader.make_batch(0, ids), run.loader.make_batch(5, ids)
    assert torch.equal(later.images, rendered(run, ids, 5, run.pixels))
    assert torch.equal(first.teachers[0], later.teachers[0])
    still = render(
        torch.from_numpy(run.opened.packed.read(ids)),
        draw(RECIPES["center"], ids, np.zeros(2, int), 0),
        teacher.pixels,
    )
    assert torch.cosine_similarity(first.teachers[0], teacher.encode_images(still)).min() > 0.999


def test_a_teacher_inside_training_gets_the_same_view_and_no_view_repeats(
    experiment, stores, teacher
):
    live = with_values(experiment, {"views.teacher": "live"})
    run = build_run(live, prepare(live, PreparationContext(stores)), Context())
    ids = run.opened.splits.train[[7, 3]]
    for epoch in (0, 5):
        batch = run.loader.make_batch(epoch, ids)
        assert torch.equal(batch.images, rendered(run, ids, epoch, run.pixels))
        (embeddings,) = batch.teachers
        live_embeddings = teacher.encode_images(rendered(run, ids, epoch, teacher.pixels))
        assert torch.equal(embeddings, live_embeddings)


def test_batches_of_an_epoch_are_full_and_have_no_sample_twice(experiment, assets):
    run = build_run(with_values(experiment, {"optimizer.batch_size": 24}), assets, Context())
    images = [batch.images for batch in run.batches(0)]
    assert run.steps_per_epoch == len(images) == 5
    assert {len(part) for part in images} == {24}
    assert len(torch.cat(images).flatten(1).unique(dim=0)) == 120


def test_fewer_anchors_are_the_first_ones_and_the_anchor_set_is_not_cut(experiment, assets):
    run = build_run(with_values(experiment, {"anchors.count": 3}), assets, Context())
    (anchors,) = run.train_state.objective.anchors
    assert torch.equal(anchors, run.opened.teachers[0].anchors.embeddings[:3])
    assert len(run.opened.teachers[0].anchors.embeddings) == len(run.opened.classes.embeddings) == 4


def test_every_teacher_has_its_own_anchors_and_temperature(experiment, stores, other_folder):
    other = {"model": f"local-dir:{other_folder}", "temperature": 0.02}
    several = with_values(
        experiment,
        {"teacher.others": [other], "objective.teacher_temperature": 0.3, "anchors.count": 3},
    )
    run = build_run(several, prepare(several, PreparationContext(stores)), Context())
    objective, opened = run.train_state.objective, run.opened.teachers
    assert objective.teacher_temperatures == (0.3, 0.02)
    assert all(
        torch.equal(anchors, opened_teacher.anchors.embeddings[:3])
        for anchors, opened_teacher in zip(objective.anchors, opened, strict=True)
    )
    assert [
        rows.shape for rows in run.loader.make_batch(0, run.opened.splits.train[:5]).teachers
    ] == [(5, 16), (5, 24)]


def test_only_the_student_is_trained(experiment, assets):
    run = build_run(experiment, assets, Context())
    trained = {id(p) for group in run.train_state.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in run.student.parameters()}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_applies_only_to_the_network(experiment, assets, precision, dtype):
    run = build_run(with_values(experiment, {"optimizer.precision": precision}), assets, Context())
    calls = []
    run.train_state.objective.register_forward_pre_hook(
        lambda module, inputs: calls.append((inputs[0], torch.is_autocast_enabled("cpu")))
    )
    with run.train_state.network.autocast():
        assert run.student(torch.zeros(2, 3, 32, 32)).dtype == dtype
    loss = run.train_state.network(run.loader.make_batch(0, run.opened.trained[:4]))["loss"]
    ((inputs, autocast),) = calls
    assert not autocast
    assert inputs.embeddings.dtype == inputs.features.dtype == loss.dtype == torch.float32
    assert {p.dtype for p in run.train_state.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002"]
)
def test_synchronized_norms_keep_their_activations(backbone):
    """torch's own conversion silently drops the activation of timm's BatchNormAct2d."""
    student = build_student(
        StudentConfig(backbone=backbone, image_size=32, projector_width=24), 16, 0
    )
    objective = SimCLR(student.backbone.num_features, SimclrSettings(hidden=8, width=4))
    module = TrainModule(student, objective, built_in_objectives()["simclr"].requires, nullcontext)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            # Updates the running statistics.
            student(images)
        student.eval()
        before = student(images)
        parameters = list(map(id, module.parameters()))
        convert_sync_batchnorms(module)
        torch.testing.assert_close(student(images), before)
    # An optimizer that was built before still has the same parameters.
    assert list(map(id, module.parameters())) == parameters
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(part, nn.SyncBatchNorm) for part in norms)
    assert not objective.head[-1].bias.requires_grad
