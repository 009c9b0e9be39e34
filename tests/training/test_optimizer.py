import math

import pytest
import timm
import torch
from timm.optim.lars import Lars
from torch import nn

from beamclip.config import OptimizerConfig
from beamclip.training.optimizer import build_optimizer, build_schedule, decay_groups, lr_factor


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def step(module, optimizer, gradient=0.5):
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def test_only_matrices_and_kernels_decay():
    module = network()
    module[0].bias.requires_grad_(False)
    decayed, free = decay_groups([module], 0.01)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert [
        p is q for p, q in zip(decayed["params"], [module[0].weight, module[3].weight], strict=True)
    ] == [True, True]
    assert [
        p is q
        for p, q in zip(
            free["params"], [module[1].weight, module[1].bias, module[3].bias], strict=True
        )
    ] == [True] * 3


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("test_vit", {"cls_token", "pos_embed"}),
        ("levit_128s", {"stages.0.blocks.0.attn.attention_biases"}),
        ("test_resnet", set()),
    ],
)
def test_parameters_that_timm_excludes_do_not_decay(name, spared):
    backbone = timm.create_model(name, num_classes=0)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    decayed, free = (
        [names[id(parameter)] for parameter in group["params"]]
        for group in decay_groups([backbone], 0.01)
    )
    assert len(decayed) + len(free) == len(names)
    assert spared <= {name for name in free if backbone.get_parameter(name).ndim > 1}
    assert all(backbone.get_parameter(name).ndim > 1 for name in decayed)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("lars", Lars)]
)
def test_optimizers_of_torch_and_timm_are_found_by_name_with_the_given_learning_rate(name, kind):
    optimizer = build_optimizer(
        OptimizerConfig(name=name, lr=0.3, weight_decay=0.01, batch_size=4096),
        [network(), nn.Linear(2, 2)],
    )
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 8


def test_weight_decay_may_apply_to_all_parameters():
    optimizer = build_optimizer(
        OptimizerConfig(name="sgd", weight_decay=0.01, decay="all"), [network()]
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_adamw_keeps_its_own_betas():
    optimizer = build_optimizer(OptimizerConfig(name="adamw", momentum=0.5), [network()])
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_two_steps_of_sgd_by_hand():
    layer = nn.Linear(1, 1)
    layer.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([3.0])})
    optimizer = build_optimizer(
        OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.5, momentum=0.9), [layer]
    )
    step(layer, optimizer, 1.0)
    # weight: v = 1 + 0.5 * 2 = 2, w = 2 - 0.1 * 2; bias: v = 1, b = 3 - 0.1 * 1
    assert (layer.weight.item(), layer.bias.item()) == pytest.approx((1.8, 2.9))
    step(layer, optimizer, 1.0)
    # weight: v = 0.9 * 2 + 1 + 0.5 * 1.8 = 3.7; bias: v = 0.9 + 1 = 1.9.
    # Nesterov would give 1.8 - 0.1 * 5.23.
    assert (layer.weight.item(), layer.bias.item()) == pytest.approx((1.43, 2.71))


def test_lars_adapts_matrices_but_not_biases_and_norms():
    module, lr, decay = network(), 0.1, 0.01
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    step(
        module,
        build_optimizer(
            OptimizerConfig(name="lars", lr=lr, weight_decay=decay, momentum=0.9), [module]
        ),
    )
    for name, parameter in module.named_parameters():
        old, gradient = before[name], torch.full_like(parameter, 0.5)
        trust = 0.001 * old.norm() / (gradient.norm() + decay * old.norm()) if old.ndim > 1 else 1.0
        expected = old - lr * trust * (gradient + (decay if old.ndim > 1 else 0) * old)
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_learning_rate_factor_in_closed_form():
    factors = [lr_factor(step, 4, 12) for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == pytest.approx([math.cos(math.pi * t / 16) ** 2 for t in range(8)])
    assert lr_factor(12, 4, 12) == pytest.approx(0)
    assert lr_factor(0, 0, 10) == 1.0
    assert lr_factor(5, 0, 10) == pytest.approx(0.5)


def test_the_schedule_warms_up_over_epochs_and_ends_at_zero():
    config = OptimizerConfig(name="sgd", lr=0.4, epochs=5, warmup_epochs=1.5)
    optimizer = build_optimizer(config, [network()])
    schedule = build_schedule(config, optimizer, steps_per_epoch=2)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx([0.4 * lr_factor(step, 3, 10)] * 2) for step in range(10)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)
