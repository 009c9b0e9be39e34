"""Results on a GPU must agree with those on the CPU. Skipped without a GPU."""

import numpy as np
import pytest
import torch
from helpers import tiny

from beamclip.config import RECIPES, load_experiment
from beamclip.data import draw
from beamclip.data.augmentation.render import PixelFormat, render, render_all
from beamclip.evaluation import LabeledFeatures, evaluate
from beamclip.objectives.swav import sinkhorn
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.teachers import load_teacher
from beamclip.training.context import Context
from beamclip.training.loop import train_epoch
from beamclip.training.setup import build_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    return tiny.write_preset(
        folder / "tiny.yaml",
        tiny.make_images(folder / "images"),
        tiny.make_teacher(folder / "teacher"),
    )


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_view_is_the_same_on_both(recipe, small, interpolation):
    if small and not RECIPES[recipe].small_crops:
        pytest.skip("no small crops in this recipe")
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (64, 48, 48, 3), dtype=np.uint8)
    )
    parameters = draw(RECIPES[recipe], np.arange(64), np.zeros(64, np.int64), 3, small)
    pixels = PixelFormat(40, (0.5,) * 3, (0.25,) * 3, interpolation)
    on_gpu = render(images.to(GPU), parameters, pixels).cpu()
    on_cpu = render(images, parameters, pixels)
    # In steps of 8 bits. A value may round differently, and contrast then amplifies it.
    difference = (on_gpu - on_cpu).abs() * 0.25 * 255
    assert difference.mean() < 0.1
    assert (difference > 2).float().mean() < 0.01


def test_views_rendered_together_equal_views_rendered_one_by_one():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (32, 48, 48, 3), dtype=np.uint8)
    ).to(GPU)
    views = [draw(RECIPES["simclr"], np.arange(32), np.full(32, view), 3) for view in range(3)]
    pixels = PixelFormat(40, (0.5,) * 3, (0.25,) * 3)
    one_by_one = torch.cat([render(images, view, pixels) for view in views])
    assert torch.allclose(render_all(images, views, pixels), one_by_one, atol=1e-5)


def test_a_teacher_embeds_the_same_on_both(preset):
    tower = load_experiment(str(preset)).teacher
    images = torch.rand(16, 3, 32, 32)
    cpu_teacher = load_teacher(tower, torch.device("cpu"))
    gpu_teacher = load_teacher(tower, GPU)
    cosines = torch.cosine_similarity(
        cpu_teacher.encode_images(images), gpu_teacher.encode_images(images.to(GPU)).cpu()
    )
    assert cosines.min() > 0.999


def runs_of(preset, folder, **values):
    experiment = load_experiment(
        str(preset),
        {"optimizer.precision": "fp32", **{k.replace("__", "."): v for k, v in values.items()}},
    )
    assets = prepare(experiment, PreparationContext(folder))
    return [
        build_run(experiment, assets, Context(device=device))
        for device in (torch.device("cpu"), GPU)
    ]


def loss_of(run):
    with torch.no_grad():
        return float(
            run.train_state.network(run.loader.make_batch(0, run.opened.trained[:32]))["loss"]
        )


OBJECTIVES = [
    "csm",
    "csm+simreg",
    "seed",
    "compress",
    "image_queue",
    "clip_cid",
    "simclr",
    "swav",
    "supervised",
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_has_the_same_loss_on_both(preset, tmp_path, objective):
    changes = {"objective.clip_cid.clusters": 8, "objective.swav.prototypes": 16}
    changes |= {f"objective.{name}.queue": 32 for name in ("seed", "compress", "image_queue")}
    runs = runs_of(preset, tmp_path, objective__name=objective, **changes)
    assert loss_of(runs[1]) == pytest.approx(loss_of(runs[0]), rel=5e-3)


@pytest.mark.parametrize("resident", ["always", "never"])
def test_an_epoch_trains(preset, tmp_path, resident):
    run = runs_of(preset, tmp_path, scaling__resident=resident)[1]
    first = train_epoch(run.train_state, run.batches(0), run.context, 0).metrics["train/loss"]
    for epoch in range(1, 6):
        last = train_epoch(run.train_state, run.batches(epoch), run.context, 0).metrics[
            "train/loss"
        ]
    assert last < first


def test_bf16_is_close_to_fp32(preset, tmp_path):
    fp32, bf16 = (
        loss_of(runs_of(preset, tmp_path, optimizer__precision=precision)[1])
        for precision in ("fp32", "bf16")
    )
    assert bf16 == pytest.approx(fp32, rel=0.05)
    assert bf16 != fp32


def test_a_compiled_backbone_is_the_same_network(preset, tmp_path):
    plain, compiled = (
        runs_of(preset, tmp_path, optimizer__compile=compiled)[1] for compiled in (False, True)
    )
    assert loss_of(compiled) == pytest.approx(loss_of(plain), rel=1e-3)


def test_probes_agree(preset):
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(4, 16, generator=generator)

    def features(count, device):
        labels = torch.arange(count) % 4
        rows = centers[labels] + torch.randn(
            count, 16, generator=torch.Generator().manual_seed(count)
        )
        return LabeledFeatures(rows.to(device), None, labels.to(device))

    config = load_experiment(str(preset)).probe
    on_cpu, on_gpu = (
        evaluate(*(features(n, device) for n in (400, 100, 200)), None, config)
        for device in ("cpu", GPU)
    )
    for key in ("linear_probe/test_top1", "knn/test_top1"):
        assert on_gpu.metrics[key] == pytest.approx(on_cpu.metrics[key], abs=1)


def test_sinkhorn_is_in_fp32_under_autocast():
    scores = torch.randn(64, 16, device=GPU)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        codes = sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    assert torch.allclose(codes.sum(1), torch.ones(64, device=GPU), atol=1e-5)
