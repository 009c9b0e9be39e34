import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from beamclip.data.augmentation.resample import (
    apply_matrices,
    blur,
    blur_matrices,
    crop,
    resize_matrices,
)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [20, 48, 100])
def test_resizing_equals_torchs_antialiased_interpolation(photographs, interpolation, target):
    images = photographs()
    n = torch.ones(len(images))
    matrix = resize_matrices(0 * n, 48 * n, None, 48, target, interpolation)
    expected = F.interpolate(
        images, target, mode=interpolation, antialias=True, align_corners=False
    )
    assert torch.allclose(apply_matrices(images, matrix, matrix), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(3, 5, 30, 22), (0, 0, 48, 48), (20, 30, 9, 11)])
def test_a_crop_is_cut_before_it_is_resized_as_in_torchvision(photographs, interpolation, box):
    left, top, width, height = box
    images, n = photographs(), torch.ones(6)
    rows = resize_matrices(top * n, height * n, None, 48, 32, interpolation)
    columns = resize_matrices(left * n, width * n, None, 48, 32, interpolation)
    expected = TF.resized_crop(
        images,
        top,
        left,
        height,
        width,
        [32, 32],
        v2.InterpolationMode(interpolation),
        antialias=True,
    )
    assert torch.allclose(apply_matrices(images, rows, columns), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_rounded_and_clipped_after_each_axis(interpolation):
    """A bright column and a bright row on black: bicubic goes below black next to each of them.

    If these values were not clipped after the first axis, the second axis would use them.
    """
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 16], images[:, 16] = 255, 255
    out = (
        crop(
            images,
            np.array([[2.3, 3.1, 20.7, 24.9]], np.float32),
            np.array([False]),
            40,
            interpolation,
        )[0].permute(1, 2, 0)
        * 255
    )
    cut = Image.fromarray(images[0, 3:28, 2:23].numpy())
    wide = cut.resize((40, 25), Image.Resampling[interpolation.upper()], (0.3, 0, 21, 25))
    expected = wide.resize((40, 40), Image.Resampling[interpolation.upper()], (0, 0.1, 40, 25))
    assert abs(out.numpy() - np.asarray(expected, np.float32)).max() < 1.001
    assert torch.allclose(out, out.round(), atol=1e-4)


def test_every_image_of_a_batch_gets_its_own_crop():
    left, width = torch.tensor([0.0, 3, 5, 7, 9, 11]), torch.tensor([48.0, 20, 21, 22, 23, 24])
    together = resize_matrices(left, width, None, 48, 16, "bilinear")
    for i in range(6):
        assert torch.equal(
            together[i : i + 1],
            resize_matrices(left[i : i + 1], width[i : i + 1], None, 48, 16, "bilinear"),
        )


def test_flipping_mirrors_the_view():
    n = torch.ones(6)
    flip = torch.tensor([True, False] * 3)
    flipped = resize_matrices(2 * n, 40 * n, flip, 48, 32, "bilinear")
    straight = resize_matrices(2 * n, 40 * n, None, 48, 32, "bilinear")
    assert torch.allclose(flipped[0], straight[0].flip(0), atol=1e-6)
    assert torch.equal(flipped[1], straight[1])


def test_blur_is_a_gaussian_with_reflected_borders_and_does_not_affect_other_images(photographs):
    images = photographs(3, 60)
    out = images.clone()
    blur(out, np.array([0.8, 0, 1.5], np.float32))
    for i, sigma in ((0, 0.8), (2, 1.5)):
        assert torch.allclose(
            out[i], TF.gaussian_blur(images[i], [7, 7], [sigma, sigma]), atol=1e-5
        )
    assert torch.equal(out[1], images[1])


def test_blur_scales_with_the_side(photographs):
    image = photographs(1, 224)
    small = F.interpolate(image, 112, mode="bilinear", antialias=True)
    matrices = [
        blur_matrices(torch.tensor([sigma]), side) for sigma, side in ((2.0, 224), (1.0, 112))
    ]
    blurred = [apply_matrices(x, m, m) for x, m in zip((image, small), matrices, strict=True)]
    assert torch.allclose(
        F.interpolate(blurred[0], 112, mode="bilinear", antialias=True), blurred[1], atol=0.01
    )
