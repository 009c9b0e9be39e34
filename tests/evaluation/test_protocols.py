import pytest
import torch
from helpers.blobs import part

from beamclip.config import GridConfig, ProbeConfig, UserError
from beamclip.evaluation import LabelledFeatures, accuracy, fit_probe, select_probe

GRID = GridConfig(lr=(0.5, 0.1), weight_decay=(0.001, 0.1, 10.0), epochs=4, batch_size=128)
CLIP = ProbeConfig(protocol="clip", inverse_l2=(10.0, 0.001, 0.1, 10.0))


def both(train, val):
    return torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels])


def test_the_grid_is_every_combination_the_strongest_first():
    result = select_probe(part(150), part(100, seed=1), ProbeConfig(grid=GRID))
    tried = [tuple(cell.settings.values()) for cell in result.cells]
    assert tried == [
        (lr, wd, name)
        for wd in (10.0, 0.1, 0.001)
        for lr in (0.1, 0.5)
        for name in ("standardise", "l2")
    ]
    assert (
        result.val_top1
        == max(cell.val_top1 for cell in result.cells)
        == result.cells[result.chosen].val_top1
    )


def test_val_chooses_c():
    train, val = part(150), part(2000, seed=1)
    result = select_probe(train, val, CLIP)
    alone = [
        accuracy(fit_probe(train.features, train.labels, c, 200).predict(val.features), val.labels)
        for c in (0.001, 0.1, 10.0)
    ]
    assert [cell.val_top1 for cell in result.cells] == pytest.approx(alone, abs=0.15)
    assert [cell.settings for cell in result.cells] == [
        {"inverse_l2": c} for c in (0.001, 0.1, 10.0)
    ]
    assert result.chosen == 1


def test_the_chosen_settings_are_fitted_again_on_train_and_val():
    train, val = part(150), part(2000, seed=1)
    again, once = (
        select_probe(train, val, CLIP).probe,
        select_probe(train, val, CLIP, refit=False).probe,
    )
    torch.testing.assert_close(
        again.logits(val.features),
        fit_probe(*both(train, val), 0.1, 200).logits(val.features),
        atol=0.02,
        rtol=0.02,
    )
    torch.testing.assert_close(
        once.logits(val.features),
        fit_probe(train.features, train.labels, 0.1, 200).logits(val.features),
        atol=0.02,
        rtol=0.02,
    )


@pytest.mark.parametrize("protocol", ["grid", "clip", "simreg", "swav", "simclr", "seed"])
def test_more_images_make_every_protocol_better(protocol):
    train, val, test = part(60), part(1500, seed=1), part(2000, seed=2)
    config = ProbeConfig(protocol=protocol, grid=GRID)
    once, again = (select_probe(train, val, config, refit).probe for refit in (False, True))
    before, after = (accuracy(probe.predict(test.features), test.labels) for probe in (once, again))
    assert after > before + 3


@pytest.mark.parametrize(
    "config", [ProbeConfig(protocol="clip", inverse_l2=(1.0, 0.1, 10.0)), ProbeConfig(grid=GRID)]
)
def test_of_equals_the_more_strongly_regularised_wins(config):
    result = select_probe(part(200, signal=9), part(200, seed=1, signal=9), config)
    perfect = [cell.val_top1 == 100 for cell in result.cells]
    assert sum(perfect) > 1
    assert result.chosen == perfect.index(True)


def test_a_class_that_only_val_has_is_learnt_from_val():
    train, val = part(200), part(200, seed=1)
    without = LabelledFeatures(
        train.features[train.labels != 5], None, train.labels[train.labels != 5]
    )
    for protocol in ("grid", "clip", "seed"):
        assert (
            len(select_probe(without, val, ProbeConfig(protocol=protocol, grid=GRID)).probe.bias)
            == 6
        )


def test_a_single_class_is_a_sentence():
    one = LabelledFeatures(torch.randn(20, 4), None, torch.zeros(20, dtype=torch.int64))
    for protocol in ("grid", "clip", "seed"):
        with pytest.raises(UserError, match="needs two classes, but all 20 train labels are 0"):
            select_probe(one, one, ProbeConfig(protocol=protocol))
