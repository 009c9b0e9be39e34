import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from beamclip.evaluation import bootstrap as module
from beamclip.evaluation import expected_calibration_error, wilson_interval
from beamclip.evaluation.bootstrap import class_intervals, intervals, resampled_sums


def hits_of(right, count):
    return torch.arange(count) < right


@pytest.mark.parametrize(("right", "count"), [(50, 100), (850, 1000), (2400, 4000)])
def test_of_an_accuracy_it_is_wilson_s(right, count):
    (found,), _ = intervals([hits_of(right, count)], torch.full((count,), 0.5), 4000, 0)
    low, high = wilson_interval(100 * right / count, count)
    assert found == pytest.approx((low, high), abs=0.06 * (high - low))


def test_it_is_scipy_s():
    values = np.random.default_rng(0).random(200)
    sums = resampled_sums(torch.from_numpy(values)[:, None], 4000, 0)[:, 0].numpy() / 200
    expected = bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert np.percentile(sums, (2.5, 97.5)) == pytest.approx(
        [expected.low, expected.high], abs=0.003
    )


def test_calibration_is_drawn_with_its_images():
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=g)
    hits = torch.rand(300, generator=g) < confidence**2
    _, found = intervals([hits], confidence, 500, 0)
    drawn = torch.randint(300, (500, 300), generator=torch.Generator().manual_seed(5))
    errors = [expected_calibration_error(confidence[rows], hits[rows]) for rows in drawn]
    low, high = (
        expected_calibration_error(confidence, hits)
        + np.percentile(errors, (2.5, 97.5))
        - np.mean(errors)
    )
    assert found == pytest.approx((low, high), abs=1.0)


@pytest.mark.parametrize("too_sure", [0.0, 0.1])
def test_the_interval_of_calibration_holds_its_number_and_is_as_wide_as_such_numbers_scatter(
    too_sure,
):
    """Also of a model that is right as often as it says, whose true error is 0 and whose number never is."""
    g, numbers, found = torch.Generator().manual_seed(1), [], []
    for _ in range(120):
        confidence = 0.5 + 0.5 * torch.rand(500, generator=g)
        hits = torch.rand(500, generator=g) < confidence - too_sure
        numbers.append(expected_calibration_error(confidence, hits))
        found.append(intervals([hits], confidence, 200, 0)[1])
    assert all(
        0 <= low <= number <= high and low < high
        for (low, high), number in zip(found, numbers, strict=True)
    )
    inside = np.mean([low <= np.mean(numbers) <= high for low, high in found])
    assert inside >= 0.9  # where numbers of this size of test set lie, on average


def test_seeds_decide_and_blocks_do_not(monkeypatch):
    hits, confidence = hits_of(30, 50), torch.full((50,), 0.5)
    once = intervals([hits, ~hits], confidence, 200, 3)
    assert (
        intervals([hits, ~hits], confidence, 200, 3)
        == once
        != intervals([hits, ~hits], confidence, 200, 4)
    )
    monkeypatch.setattr(module, "BLOCK", 50 * 40)
    blocked = intervals([hits, ~hits], confidence, 200, 3)
    assert blocked[0][0] == pytest.approx(once[0][0], abs=1e-9)


@pytest.mark.parametrize("right", [0, 9])
def test_where_all_images_are_alike_it_is_wilson_s_since_draws_say_nothing_of_others(right):
    (found,), _ = intervals([hits_of(right, 9)], torch.full((9,), 0.5), 100, 0)
    assert found == wilson_interval(100 * right / 9, 9)
    assert class_intervals(torch.tensor([9]), torch.tensor([right]), 100, 0) == [found]


def test_each_class_has_its_own():
    images, right = torch.tensor([400, 100, 0]), torch.tensor([200, 90, 0])
    found = class_intervals(images, right, 4000, 0)
    assert found[0] == pytest.approx(wilson_interval(50, 400), abs=0.6)
    assert found[1] == pytest.approx(wilson_interval(90, 100), abs=2.5)
    assert found[2] == (0, 100)
