"""Bootstrap intervals against Wilson's formula, scipy and repeated sampling."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from beamclip.evaluation import bootstrap as module
from beamclip.evaluation import expected_calibration_error, wilson_interval
from beamclip.evaluation.bootstrap import (
    bootstrap_intervals,
    class_accuracy_intervals,
    resampled_sums,
)


def hits_of(right, count):
    return torch.arange(count) < right


@pytest.mark.parametrize(("right", "count"), [(50, 100), (850, 1000), (2400, 4000)])
def test_an_accuracy_s_interval_is_close_to_wilson_s(right, count):
    (interval,), _ = bootstrap_intervals(
        [hits_of(right, count)], torch.full((count,), 0.5), 4000, 0
    )
    low, high = wilson_interval(100 * right / count, count)
    assert interval == pytest.approx((low, high), abs=0.06 * (high - low))


def test_percentiles_of_a_mean_are_scipy_s():
    values = np.random.default_rng(0).random(200)
    means = resampled_sums(torch.from_numpy(values)[:, None], 4000, 0)[:, 0].numpy() / 200
    expected = bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert np.percentile(means, (2.5, 97.5)) == pytest.approx(
        [expected.low, expected.high], abs=0.003
    )


def test_the_calibration_error_s_interval_is_the_spread_of_resampled_errors():
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=g)
    hits = torch.rand(300, generator=g) < confidence**2
    _, interval = bootstrap_intervals([hits], confidence, 500, 0)
    drawn = torch.randint(300, (500, 300), generator=torch.Generator().manual_seed(5))
    errors = [expected_calibration_error(confidence[rows], hits[rows]) for rows in drawn]
    low, high = (
        expected_calibration_error(confidence, hits)
        + np.percentile(errors, (2.5, 97.5))
        - np.mean(errors)
    )
    assert interval == pytest.approx((low, high), abs=1.0)


@pytest.mark.parametrize("overconfidence", [0.0, 0.1])
def test_the_calibration_error_s_interval_contains_it_and_covers_other_test_sets(overconfidence):
    """Also for a calibrated model, whose true error is 0 and whose measured error never is."""
    g = torch.Generator().manual_seed(1)
    errors = []
    intervals = []
    for _ in range(120):
        confidence = 0.5 + 0.5 * torch.rand(500, generator=g)
        hits = torch.rand(500, generator=g) < confidence - overconfidence
        errors.append(expected_calibration_error(confidence, hits))
        intervals.append(bootstrap_intervals([hits], confidence, 200, 0)[1])
    for (low, high), error in zip(intervals, errors, strict=True):
        assert 0 <= low <= error <= high and low < high
    # The mean error of test sets of this size is in most intervals.
    covered = np.mean([low <= np.mean(errors) <= high for low, high in intervals])
    assert covered >= 0.9


def test_the_seed_decides_the_draws_and_the_block_size_does_not(monkeypatch):
    hits = hits_of(30, 50)
    confidence = torch.full((50,), 0.5)
    intervals = bootstrap_intervals([hits, ~hits], confidence, 200, 3)
    assert bootstrap_intervals([hits, ~hits], confidence, 200, 3) == intervals
    assert bootstrap_intervals([hits, ~hits], confidence, 200, 4) != intervals
    monkeypatch.setattr(module, "BLOCK", 50 * 40)
    in_blocks = bootstrap_intervals([hits, ~hits], confidence, 200, 3)
    assert in_blocks[0][0] == pytest.approx(intervals[0][0], abs=1e-9)


@pytest.mark.parametrize("right", [0, 9])
def test_if_all_images_are_right_or_all_wrong_the_interval_is_wilson_s(right):
    (interval,), _ = bootstrap_intervals([hits_of(right, 9)], torch.full((9,), 0.5), 100, 0)
    assert interval == wilson_interval(100 * right / 9, 9)
    of_classes = class_accuracy_intervals(torch.tensor([9]), torch.tensor([right]), 100, 0)
    assert of_classes == [interval]


def test_each_class_has_its_own_interval():
    images, right = torch.tensor([400, 100, 0]), torch.tensor([200, 90, 0])
    intervals = class_accuracy_intervals(images, right, 4000, 0)
    assert intervals[0] == pytest.approx(wilson_interval(50, 400), abs=0.6)
    assert intervals[1] == pytest.approx(wilson_interval(90, 100), abs=2.5)
    assert intervals[2] == (0, 100)
