import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from beamclip.config import RECIPES
from beamclip.data import ViewParameters, draw
from beamclip.data.augmentation import render as views
from beamclip.data.augmentation import resample, resample_cpu
from beamclip.data.augmentation.render import PixelFormat, render, render_all


def drawn(recipe, count, view=0):
    return draw(RECIPES[recipe], np.arange(count), np.full(count, view), 0)


def test_pillow_agrees_to_the_bit(photographs, stored):
    images = stored(photographs())
    out = render(images, drawn("center", 6), PixelFormat(30, interpolation="bicubic"))
    for got, image in zip(out, images, strict=True):
        pillow = np.asarray(
            Image.fromarray(image.numpy()).resize((30, 30), Image.Resampling.BICUBIC)
        )
        assert np.array_equal((got.permute(1, 2, 0) * 255).round().numpy(), pillow)


def test_the_central_view_at_the_stored_size_is_only_normalized(photographs, stored):
    images = stored(photographs())
    out = render(
        images, drawn("center", 6), PixelFormat(48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    )
    shift, scale = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    assert torch.allclose(out, ((images / 255 - shift) / scale).permute(0, 3, 1, 2), atol=1e-6)
    assert out.is_contiguous()


def test_render_all_equals_rendering_each_view_or_one_batch_with_repeated_images(
    photographs, stored
):
    images, pixels = stored(photographs()), PixelFormat(32)
    parameters = [drawn("simclr", 6, view) for view in range(3)]
    together = render_all(images, parameters, pixels)
    assert torch.equal(together, torch.cat([render(images, one, pixels) for one in parameters]))
    assert torch.equal(
        together, render(images.repeat(3, 1, 1, 1), ViewParameters.joined(parameters), pixels)
    )  # as a GPU does


@pytest.mark.parametrize("recipe", ["center", "weak", "simclr", "simclr_small"])
def test_teacher_and_student_see_the_same_view_at_their_own_resolution(photographs, stored, recipe):
    images, parameters = stored(photographs(8, 64)), drawn(recipe, 8, 2)
    small = render(images, parameters, PixelFormat(32))
    large = render(
        images,
        parameters,
        PixelFormat(96, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic"),
    )
    large = large * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor(
        [0.5, 0.4, 0.3]
    ).view(3, 1, 1)
    assert (F.interpolate(large, 32, mode="bilinear", antialias=True) - small).abs().mean() < 0.02


@pytest.mark.parametrize("size", [30, 33, 64])
@pytest.mark.parametrize("recipe", ["weak", "simclr", "simclr_small"])
def test_a_view_is_the_same_to_the_bit_in_any_batch(photographs, stored, recipe, size):
    count = 1 + views._CHUNK_VALUES // (3 * size * size) + 5  # more than one chunk
    images, parameters = stored(photographs(count, 40)), drawn(recipe, count)
    whole = render(images, parameters, PixelFormat(size, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)))
    for start, stop in ((0, 1), (3, 4), (7, 20), (count - 9, count)):
        rows = slice(start, stop)
        some = render(
            images[rows],
            parameters.select(rows),
            PixelFormat(size, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        )
        assert torch.equal(whole[rows], some)


def test_a_view_is_the_same_to_the_bit_on_any_number_of_threads(photographs, stored):
    images, parameters, threads = (
        stored(photographs(4, 240)),
        drawn("simclr", 4),
        torch.get_num_threads(),
    )
    out = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out.append(render(images, parameters, PixelFormat(224)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("recipe", ["center", "weak", "simclr", "simclr_small"])
def test_the_gpu_implementation_gives_the_same_view_up_to_rounding(
    photographs, stored, monkeypatch, recipe, size, interpolation
):
    """Compare the matrices that a GPU uses, run on the CPU here, with the CPU's own code."""
    images, parameters = stored(photographs(24, 64)), drawn(recipe, 24)
    ours = render(images, parameters, PixelFormat(size, interpolation=interpolation))
    monkeypatch.setattr(resample_cpu, "crop", resample.crop)
    monkeypatch.setattr(resample_cpu, "blur", resample.blur)
    monkeypatch.setattr(views, "_CHUNK_VALUES", 10**9)
    theirs = render(images, parameters, PixelFormat(size, interpolation=interpolation))
    assert (ours - theirs).abs().mean() < 0.2 / 255
    assert torch.cosine_similarity(ours.flatten(1), theirs.flatten(1)).min() > 0.99999


def test_views_are_made_in_one_thread_and_the_thread_count_is_restored_after_a_failure(
    photographs, stored, monkeypatch
):
    threads, seen = torch.get_num_threads(), []

    def fail(*_):
        seen.append(torch.get_num_threads())
        raise OSError("no")

    monkeypatch.setattr(resample_cpu, "crop", fail)
    try:
        torch.set_num_threads(3)
        with pytest.raises(OSError, match="no"):
            render(stored(photographs(2)), drawn("weak", 2), PixelFormat(16))
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_no_images_give_no_views(stored, photographs):
    assert render(stored(photographs(1))[:0], drawn("simclr", 0), PixelFormat(16)).shape == (
        0,
        3,
        16,
        16,
    )


def test_stored_pixels_are_not_changed(photographs, stored):
    images = stored(photographs(4, 32))
    before = images.clone()
    for recipe in ("center", "simclr"):
        render(images, drawn(recipe, 4), PixelFormat(32))
    assert torch.equal(images, before)
