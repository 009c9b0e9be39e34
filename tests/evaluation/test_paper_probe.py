"""Probes of the papers against torch's own SGD."""

import pytest
import torch
import torch.nn.functional as F
from helpers.blobs import blobs

from beamclip.evaluation import PAPER_PROTOCOLS, accuracy, fit_paper
from beamclip.evaluation.linear_probe import fit_standardizer
from beamclip.evaluation.paper_probe import PaperProtocol


def by_torch(x, y, protocol, seed=0):
    """Fit the same with torch's own layer, optimizer and autograd."""
    inputs = fit_standardizer(x, True)(x) if protocol.standardized else x
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(
        layer.parameters(),
        protocol.lr,
        0.9,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
    )
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(protocol.epochs):
        batches = torch.randperm(len(x), generator=generator).split(protocol.batch_size)
        for index, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = protocol.lr_at(epoch + index / len(batches))
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[batch]), y[batch]).backward()
            optimizer.step()
    return layer


@pytest.mark.parametrize(
    "protocol",
    [
        PaperProtocol(0.01, 4, 1e-2, drops=(1, 3), standardized=True, batch_size=32),
        PaperProtocol(0.02, 3, 1e-6, batch_size=32),
        PaperProtocol(0.02, 3, 0.0, nesterov=True, batch_size=32),
    ],
)
def test_it_equals_torch_s_sgd(protocol):
    x, y = blobs(100)
    probe = fit_paper(x, y, protocol)
    layer = by_torch(x, y, protocol)
    torch.testing.assert_close(probe.weight, layer.weight.detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(probe.bias, layer.bias.detach(), atol=1e-4, rtol=1e-3)
    assert probe.unit is protocol.standardized


def test_learning_rates_fall_as_the_papers_state():
    seed = PAPER_PROTOCOLS["seed"]
    rates = [seed.lr_at(epoch) for epoch in (0, 59.9, 60, 79.9, 80)]
    assert rates == pytest.approx([30, 30, 3, 3, 0.3])
    swav = PAPER_PROTOCOLS["swav"]
    assert [swav.lr_at(epoch) for epoch in (0, 50, 100)] == pytest.approx([0.3, 0.15, 0])


@pytest.mark.parametrize("name", list(PAPER_PROTOCOLS))
def test_each_protocol_learns_to_tell_classes_apart(name):
    x, y = blobs(300, signal=1.5)
    x_new, y_new = blobs(300, seed=1, signal=1.5)
    probe = fit_paper(x, y, PAPER_PROTOCOLS[name])
    assert accuracy(probe.predict(x_new), y_new) > 85
