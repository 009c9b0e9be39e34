"""Few-shot probes: how images are drawn, and the statistics over draws."""

import pytest
import torch
from helpers.blobs import part
from scipy import stats

from beamclip.config import GridConfig, ProbeConfig
from beamclip.evaluation import accuracy, evaluate_few_shot, select_probe
from beamclip.evaluation.few_shot import sample_shots

CONFIG = ProbeConfig(
    grid=GridConfig(lr=(0.3,), weight_decay=(0.1, 0.01)), few_shot=(4, 1, 16), few_shot_draws=4
)


@pytest.fixture(scope="module")
def parts():
    return part(300, signal=0.6), part(200, seed=1, signal=0.6), part(500, seed=2, signal=0.6)


def test_each_class_gets_its_shots_and_fewer_shots_are_a_subset_of_more(parts):
    train = parts[0]
    four = sample_shots(train, 4, 0)
    one = sample_shots(train, 1, 0)
    assert four.labels.bincount().tolist() == [4] * 6
    assert one.labels.bincount().tolist() == [1] * 6
    assert row_set(one) <= row_set(four) <= row_set(train)
    assert row_set(four) != row_set(sample_shots(train, 4, 1))


def row_set(data):
    return {tuple(row) for row in data.features.tolist()}


def test_every_draw_is_the_probe_on_those_images_alone(parts):
    train, val, test = parts
    four = evaluate_few_shot(*parts, CONFIG)[1]
    probes = [
        select_probe(sample_shots(train, 4, seed), val, CONFIG, refit=False).probe
        for seed in range(4)
    ]
    assert list(four.draws) == [
        accuracy(probe.predict(test.features), test.labels) for probe in probes
    ]


def test_mean_and_interval_are_over_draws(parts):
    results = evaluate_few_shot(*parts, CONFIG)
    assert [result.images_per_class for result in results] == [1, 4, 16]
    assert results[0].mean < results[1].mean < results[2].mean
    for result in results:
        assert result.mean == pytest.approx(sum(result.draws) / 4)
        assert (result.low, result.high) == pytest.approx(
            stats.t.interval(0.95, 3, result.mean, stats.sem(result.draws))
        )


def test_a_single_draw_has_no_interval(parts):
    config = CONFIG.model_copy(update={"few_shot": (2,), "few_shot_draws": 1})
    (result,) = evaluate_few_shot(*parts, config)
    assert result.mean == result.draws[0] and result.low is None and result.high is None


def test_more_shots_than_the_smallest_class_has_images_are_omitted_with_a_note(parts):
    smallest = int(parts[0].labels.bincount().min())
    config = CONFIG.model_copy(update={"few_shot": (smallest, smallest + 1), "few_shot_draws": 1})
    enough, too_many = evaluate_few_shot(*parts, config)
    assert enough.note is None and enough.mean is not None
    assert too_many.mean is None and too_many.draws == ()
    assert too_many.note == f"a class has only {smallest} train images"


def test_only_train_images_are_drawn(parts):
    train, val, _ = parts
    drawn = sample_shots(train, 2, 0)
    assert drawn.embeddings is None and drawn.features.shape == (12, 24)
    assert not any(torch.equal(row, other) for row in drawn.features for other in val.features)
