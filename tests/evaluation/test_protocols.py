"""Each protocol tries candidates on val and refits the chosen one."""

import pytest
import torch
from helpers.blobs import part

from beamclip.config import GridConfig, ProbeConfig, UserError
from beamclip.evaluation import LabeledFeatures, accuracy, fit_probe, select_probe

GRID = GridConfig(lr=(0.5, 0.1), weight_decay=(0.001, 0.1, 10.0), epochs=4, batch_size=128)
CLIP = ProbeConfig(protocol="clip", inverse_l2=(10.0, 0.001, 0.1, 10.0))


def test_the_grid_is_every_combination_the_strongest_first():
    result = select_probe(part(150), part(100, seed=1), ProbeConfig(grid=GRID))
    tried = [tuple(candidate.settings.values()) for candidate in result.candidates]
    assert tried == [
        (lr, wd, name)
        for wd in (10.0, 0.1, 0.001)
        for lr in (0.1, 0.5)
        for name in ("standardise", "l2")
    ]
    assert result.val_top1 == max(candidate.val_top1 for candidate in result.candidates)
    assert result.val_top1 == result.candidates[result.chosen].val_top1


def test_val_chooses_c():
    train, val = part(150), part(2000, seed=1)
    result = select_probe(train, val, CLIP)
    alone = [
        accuracy(fit_probe(train.features, train.labels, c, 200).predict(val.features), val.labels)
        for c in (0.001, 0.1, 10.0)
    ]
    scores = [candidate.val_top1 for candidate in result.candidates]
    assert scores == pytest.approx(alone, abs=0.15)
    settings = [candidate.settings for candidate in result.candidates]
    assert settings == [{"inverse_l2": c} for c in (0.001, 0.1, 10.0)]
    assert result.chosen == 1


def test_the_chosen_settings_are_fitted_again_on_train_and_val():
    train, val = part(150), part(2000, seed=1)
    refitted = select_probe(train, val, CLIP).probe
    features = torch.cat([train.features, val.features])
    labels = torch.cat([train.labels, val.labels])
    expected = fit_probe(features, labels, 0.1, 200)
    torch.testing.assert_close(
        refitted.logits(val.features), expected.logits(val.features), atol=0.02, rtol=0.02
    )
    on_train = select_probe(train, val, CLIP, refit=False).probe
    expected = fit_probe(train.features, train.labels, 0.1, 200)
    torch.testing.assert_close(
        on_train.logits(val.features), expected.logits(val.features), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("protocol", ["grid", "clip", "simreg", "swav", "simclr", "seed"])
def test_more_images_make_every_protocol_better(protocol):
    train, val, test = part(60), part(1500, seed=1), part(2000, seed=2)
    config = ProbeConfig(protocol=protocol, grid=GRID)
    on_train = select_probe(train, val, config, refit=False).probe
    refitted = select_probe(train, val, config, refit=True).probe
    before = accuracy(on_train.predict(test.features), test.labels)
    after = accuracy(refitted.predict(test.features), test.labels)
    assert after > before + 3


@pytest.mark.parametrize(
    "config", [ProbeConfig(protocol="clip", inverse_l2=(1.0, 0.1, 10.0)), ProbeConfig(grid=GRID)]
)
def test_the_more_strongly_regularized_of_equally_good_candidates_wins(config):
    result = select_probe(part(200, signal=9), part(200, seed=1, signal=9), config)
    perfect = [candidate.val_top1 == 100 for candidate in result.candidates]
    assert sum(perfect) > 1
    assert result.chosen == perfect.index(True)


def test_a_class_that_only_val_has_is_learned_from_val():
    train, val = part(200), part(200, seed=1)
    kept = train.labels != 5
    without = LabeledFeatures(train.features[kept], None, train.labels[kept])
    for protocol in ("grid", "clip", "seed"):
        result = select_probe(without, val, ProbeConfig(protocol=protocol, grid=GRID))
        assert len(result.probe.bias) == 6


def test_a_single_class_is_a_user_error():
    data = LabeledFeatures(torch.randn(20, 4), None, torch.zeros(20, dtype=torch.int64))
    for protocol in ("grid", "clip", "seed"):
        with pytest.raises(UserError, match="needs two classes, but all 20 train labels are 0"):
            select_probe(data, data, ProbeConfig(protocol=protocol))
