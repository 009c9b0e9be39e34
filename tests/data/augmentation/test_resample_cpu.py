import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, resized_crop

from beamclip.data.augmentation import resample, resample_cpu

STEP = 1 / 255
BOXES = {
    "odd": (3.3, 5.8, 30.4, 22.1),
    "whole": (0, 0, 48, 48),
    "on the pixels": (20, 30, 9, 11),
    "the far corner": (47.4, 47.2, 0.6, 0.8),
    "less than a pixel": (10.2, 10.3, 0.4, 0.5),
    "on the grid but for single precision": (15.9999995, 7.0000005, 16.000001, 24),
}


def alike(got, exact):
    """Check that pixels differ by one step at most, and only a few.

    A value in the middle between two steps may be rounded up or down after each axis.
    """
    steps = (got - exact).abs() / STEP
    return steps.max() < 2.001 and steps.mean() < 0.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [20, 48, 100])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_crops_equal_the_matrices_to_a_rounding_step(photographs, stored, box, size, interpolation):
    images, boxes = stored(photographs()), np.tile(np.array(box, np.float32), (6, 1))
    flip = np.array([True, False, True, False, False, True])
    exact = resample.crop(images, boxes, flip, size, interpolation)
    assert alike(resample_cpu.crop(images, boxes, flip, size, interpolation), exact)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "box", [(16, 7, 16, 24), (3.3, 5.8, 15.4, 22.1), (1.2, 1.3, 22.4, 19.7), (1, 7.9, 16, 20.2)]
)
def test_hard_edges_equal_the_matrices_too(box, interpolation):
    """Noise, in which the result shows which axis was resized first."""
    images = torch.randint(
        0, 256, (6, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    boxes, flip = np.tile(np.array(box, np.float32), (6, 1)), np.zeros(6, bool)
    assert alike(
        resample_cpu.crop(images, boxes, flip, 20, interpolation),
        resample.crop(images, boxes, flip, 20, interpolation),
    )


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [("bilinear", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC)],
)
def test_a_crop_on_whole_pixels_equals_torchvision_s_bit_by_bit(
    photographs, stored, interpolation, mode
):
    images = stored(photographs(1))
    got = resample_cpu.crop(
        images, np.array([[3, 5, 30, 22]], np.float32), np.array([False]), 32, interpolation
    )
    expected = resized_crop(Image.fromarray(images[0].numpy()), 5, 3, 22, 30, [32, 32], mode)
    assert np.array_equal((got[0].permute(1, 2, 0) * 255).round().numpy(), np.asarray(expected))


def test_every_image_gets_its_own_crop_and_flip(photographs, stored):
    images = stored(photographs(4))
    boxes = np.array([(0, 0, 48, 48), (1, 2, 20, 30), (25, 3, 20, 30), (9, 9, 9, 9)], np.float32)
    flip = np.array([False, True, False, True])
    together = resample_cpu.crop(images, boxes, flip, 16, "bilinear")
    for i in range(4):
        rows = slice(i, i + 1)
        assert torch.equal(
            together[rows], resample_cpu.crop(images[rows], boxes[rows], flip[rows], 16, "bilinear")
        )
        mirrored = resample_cpu.crop(images[rows], boxes[rows], ~flip[rows], 16, "bilinear")
        assert torch.equal(together[rows], mirrored.flip(3))


@pytest.mark.parametrize("side", [20, 61, 224])
def test_blur_equals_the_matrices(photographs, side):
    images = photographs(5, side)
    sigma = np.array([0.001, 0.3, 0, 1.1, 3.0], np.float32) * side / 224
    exact, out = images.clone(), images.clone()
    resample.blur(exact, sigma)
    resample_cpu.blur(out, sigma)
    assert torch.allclose(out, exact, atol=1e-6)
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    assert not torch.allclose(out[4], images[4], atol=1e-4)
