import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from beamclip.data.augmentation import color


def changed(step, images, *values):
    out = images.clone()
    step(out, torch.tensor(values).view(-1, 1, 1, 1))
    return out


@pytest.mark.parametrize(
    ("ours", "torchvision", "values"),
    [
        (color.brightness, TF.adjust_brightness, [0.2, 1.0, 1.8]),
        (color.contrast, TF.adjust_contrast, [0.2, 1.0, 1.8]),
        (color.saturation, TF.adjust_saturation, [0.0, 1.0, 1.8]),
        (color.hue, TF.adjust_hue, [-0.5, 0.0, 0.2]),
        (color.hue, TF.adjust_hue, [0.5, -0.2, 0.01]),
    ],
)
def test_color_changes_equal_torchvisions(photographs, ours, torchvision, values):
    images = photographs(3)
    for got, image, value in zip(changed(ours, images, *values), images, values, strict=True):
        assert torch.allclose(got, torchvision(image, value), atol=2e-5)


def test_gray_is_torchvisions(photographs):
    images = photographs(3)
    assert torch.allclose(
        changed(color.gray, images, 0, 0, 0), TF.rgb_to_grayscale(images, 3), atol=1e-6
    )


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.2, 0.5])
def test_hue_is_correct_where_channels_are_equal_or_at_their_bounds(shift):
    """All corners, edges and grays of the color cube, where the hue jumps or is undefined."""
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8).contiguous()
    assert torch.allclose(changed(color.hue, cube, shift), TF.adjust_hue(cube, shift), atol=2e-5)


ORDERS = [
    [0, 1, 2, 3, -1],
    [3, 2, 1, 0, 4],
    [-1, -1, -1, -1, -1],
    [2, 0, 3, 1, -1],
    [-1, -1, -1, -1, 4],
    [2, 0, 1, 3, 4],
]


def test_each_image_is_changed_in_its_own_order(photographs):
    images = photographs(6)
    factors = (
        np.array([0.5, 1.5, 0.3, 0.2, 0], np.float32) + np.arange(6, dtype=np.float32)[:, None] / 20
    )
    out = color.change(images.clone(), np.array(ORDERS), factors)
    for i, order in enumerate(ORDERS):
        expected = images[i : i + 1]
        for step in order:
            expected = (
                changed(color.STEPS[step], expected, factors[i, step]) if step >= 0 else expected
            )
        assert torch.equal(out[i : i + 1], expected)
    assert torch.equal(out[2], images[2])


def test_an_image_is_changed_the_same_alone_and_in_a_batch(photographs):
    images, factors = photographs(6), np.tile(np.array([0.5, 1.5, 0.3, 0.2, 0], np.float32), (6, 1))
    out = color.change(images.clone(), np.array(ORDERS), factors)
    for i in range(6):
        rows = slice(i, i + 1)
        assert torch.equal(
            color.change(images[rows].clone(), np.array(ORDERS)[rows], factors[rows]), out[rows]
        )
