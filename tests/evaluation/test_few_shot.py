import pytest
import torch
from helpers.blobs import part
from scipy import stats

from beamclip.config import GridConfig, ProbeConfig
from beamclip.evaluation import accuracy, few_shot, select_probe
from beamclip.evaluation.few_shot import sample_shots

CONFIG = ProbeConfig(
    grid=GridConfig(lr=(0.3,), weight_decay=(0.1, 0.01)), few_shot=(4, 1, 16), few_shot_draws=4
)


@pytest.fixture(scope="module")
def parts():
    return part(300, signal=0.6), part(200, seed=1, signal=0.6), part(500, seed=2, signal=0.6)


def test_so_many_of_each_class_are_drawn_and_a_smaller_draw_is_part_of_a_larger(parts):
    train = parts[0]
    four, one = sample_shots(train, 4, 0), sample_shots(train, 1, 0)
    assert four.labels.bincount().tolist() == [4] * 6
    assert one.labels.bincount().tolist() == [1] * 6
    rows = {tuple(row) for row in four.features.tolist()}
    assert (
        {tuple(row) for row in one.features.tolist()}
        <= rows
        <= {tuple(row) for row in train.features.tolist()}
    )
    assert rows != {tuple(row) for row in sample_shots(train, 4, 1).features.tolist()}


def test_every_draw_is_the_probe_on_those_images_alone(parts):
    train, val, test = parts
    four = few_shot(*parts, CONFIG)[1]
    probes = [
        select_probe(sample_shots(train, 4, seed), val, CONFIG, refit=False).probe
        for seed in range(4)
    ]
    assert list(four.draws) == [
        accuracy(probe.predict(test.features), test.labels) for probe in probes
    ]


def test_mean_and_interval_are_over_draws(parts):
    results = few_shot(*parts, CONFIG)
    assert [one.images_per_class for one in results] == [1, 4, 16]
    assert results[0].mean < results[1].mean < results[2].mean
    for one in results:
        assert one.mean == pytest.approx(sum(one.draws) / 4)
        assert (one.low, one.high) == pytest.approx(
            stats.t.interval(0.95, 3, one.mean, stats.sem(one.draws))
        )


def test_a_single_draw_has_no_interval(parts):
    (one,) = few_shot(*parts, CONFIG.model_copy(update={"few_shot": (2,), "few_shot_draws": 1}))
    assert one.mean == one.draws[0] and one.low is None and one.high is None


def test_more_than_the_smallest_class_has_is_left_out_with_a_note(parts):
    smallest = int(parts[0].labels.bincount().min())
    enough, more = few_shot(
        *parts,
        CONFIG.model_copy(update={"few_shot": (smallest, smallest + 1), "few_shot_draws": 1}),
    )
    assert enough.note is None and enough.mean is not None
    assert (
        more.mean is None
        and more.draws == ()
        and more.note == f"a class has only {smallest} train images"
    )


def test_the_draw_is_of_train_alone(parts):
    train, val, _ = parts
    some = sample_shots(train, 2, 0)
    assert some.embeddings is None and some.features.shape == (12, 24)
    assert not any(torch.equal(row, other) for row in some.features for other in val.features)
