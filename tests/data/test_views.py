import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from beamclip.config import RECIPES
from beamclip.data import colour, draw
from beamclip.data.resample import apply_matrices, blur_matrices, resize_matrices
from beamclip.data.views import PixelFormat, render


def photographs(count=6, side=48, seed=0):
    """Smooth random images: like photographs, and unlike noise, they survive rounding between two passes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    return F.interpolate(coarse, side, mode="bicubic").clamp(0, 1)


def as_bytes(images):
    return (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [20, 48, 100])
def test_resizing_equals_torchs_antialiased_interpolation(interpolation, target):
    images = photographs()
    n = torch.ones(len(images))
    matrix = resize_matrices(0 * n, 48 * n, None, 48, target, interpolation)
    expected = F.interpolate(images, target, mode=interpolation, antialias=True, align_corners=False)
    assert torch.allclose(apply_matrices(images, matrix, matrix), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(3, 5, 30, 22), (0, 0, 48, 48), (20, 30, 9, 11)])
def test_a_crop_is_cut_first_and_resized_then_as_torchvision_does(interpolation, box):
    left, top, width, height = box
    images, n = photographs(), torch.ones(6)
    rows = resize_matrices(top * n, height * n, None, 48, 32, interpolation)
    columns = resize_matrices(left * n, width * n, None, 48, 32, interpolation)
    expected = TF.resized_crop(images, top, left, height, width, [32, 32], v2.InterpolationMode(interpolation), antialias=True)
    assert torch.allclose(apply_matrices(images, rows, columns), expected, atol=1e-5)


def test_every_image_of_a_batch_gets_its_own_crop():
    left, width = torch.tensor([0.0, 3, 5, 7, 9, 11]), torch.tensor([48.0, 20, 21, 22, 23, 24])
    together = resize_matrices(left, width, None, 48, 16, "bilinear")
    for i in range(6):
        assert torch.equal(together[i : i + 1], resize_matrices(left[i : i + 1], width[i : i + 1], None, 48, 16, "bilinear"))


def test_pillow_agrees_to_a_rounding_step():
    images = as_bytes(photographs())
    out = render(images, draw(RECIPES["center"], np.arange(6), np.zeros(6, int), 0), PixelFormat(30, interpolation="bicubic"))
    for got, image in zip(out, images, strict=True):
        pillow = np.asarray(Image.fromarray(image.numpy()).resize((30, 30), Image.Resampling.BICUBIC), dtype=np.float32)
        assert abs(got.permute(1, 2, 0).numpy() * 255 - pillow).max() < 1.6


def test_flipping_mirrors_the_view():
    n = torch.ones(6)
    flip = torch.tensor([True, False] * 3)
    flipped = resize_matrices(2 * n, 40 * n, flip, 48, 32, "bilinear")
    straight = resize_matrices(2 * n, 40 * n, None, 48, 32, "bilinear")
    assert torch.allclose(flipped[0], straight[0].flip(0), atol=1e-6)
    assert torch.equal(flipped[1], straight[1])


@pytest.mark.parametrize(
    ("ours", "torchvision", "values"),
    [
        (colour.brightness, TF.adjust_brightness, [0.2, 1.0, 1.8]),
        (colour.contrast, TF.adjust_contrast, [0.2, 1.0, 1.8]),
        (colour.saturation, TF.adjust_saturation, [0.0, 1.0, 1.8]),
        (colour.hue, TF.adjust_hue, [-0.5, 0.0, 0.2]),
    ],
)
def test_colour_changes_equal_torchvisions(ours, torchvision, values):
    images = photographs(3)
    out = ours(images, torch.tensor(values))
    for got, image, value in zip(out, images, values, strict=True):
        assert torch.allclose(got, torchvision(image, value), atol=2e-5)


def test_each_image_is_jittered_in_its_own_order():
    images = photographs(4)
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [-1, -1, -1, -1], [2, 0, 3, 1]], dtype=torch.int8)
    factors = torch.tensor([[0.5, 1.5, 0.3, 0.2]] * 4)
    out = colour.jitter(images, order, factors)
    for i in range(4):
        expected = images[i : i + 1]
        for step in order[i].tolist():
            expected = colour.STEPS[step](expected, factors[i : i + 1, step]) if step >= 0 else expected
        assert torch.allclose(out[i : i + 1], expected, atol=1e-6)
    assert torch.equal(out[2], images[2])


def test_blur_is_a_gaussian_with_reflected_borders():
    images = photographs(2, 60)
    matrices = blur_matrices(torch.tensor([0.8, 1.5]), 60)
    out = apply_matrices(images, matrices, matrices)
    for i, sigma in enumerate((0.8, 1.5)):
        assert torch.allclose(out[i], TF.gaussian_blur(images[i], [7, 7], [sigma, sigma]), atol=1e-5)


def test_blur_scales_with_the_side():
    image = photographs(1, 224)
    small = F.interpolate(image, 112, mode="bilinear", antialias=True)
    matrices = [blur_matrices(torch.tensor([sigma]), side) for sigma, side in ((2.0, 224), (1.0, 112))]
    blurred = [apply_matrices(x, m, m) for x, m in zip((image, small), matrices, strict=True)]
    assert torch.allclose(F.interpolate(blurred[0], 112, mode="bilinear", antialias=True), blurred[1], atol=0.01)


@pytest.mark.parametrize("recipe", ["center", "weak", "simclr", "simclr_small"])
def test_teacher_and_student_see_the_same_view_at_their_own_resolution(recipe):
    images = as_bytes(photographs(8, 64))
    parameters = draw(RECIPES[recipe], np.arange(8), np.full(8, 2), 0)
    small = render(images, parameters, PixelFormat(32))
    large = render(images, parameters, PixelFormat(96, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic"))
    large = large * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    assert (F.interpolate(large, 32, mode="bilinear", antialias=True) - small).abs().mean() < 0.02


def test_a_view_is_the_same_in_any_batch():
    images = as_bytes(photographs(8, 32))
    parameters = draw(RECIPES["simclr"], np.arange(8), np.zeros(8, int), 0)
    whole = render(images, parameters, PixelFormat(32))
    for i in range(8):
        alone = render(images[i : i + 1], parameters.select(slice(i, i + 1)), PixelFormat(32))
        assert torch.allclose(whole[i], alone[0], atol=1e-5)


def test_stored_pixels_are_not_changed():
    images = as_bytes(photographs(4, 32))
    before = images.clone()
    render(images, draw(RECIPES["simclr"], np.arange(4), np.zeros(4, int), 0), PixelFormat(32))
    assert torch.equal(images, before)
