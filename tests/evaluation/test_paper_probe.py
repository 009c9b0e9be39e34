import pytest
import torch
import torch.nn.functional as F
from helpers.blobs import blobs

from beamclip.evaluation import PAPER_PROTOCOLS, accuracy, fit_paper
from beamclip.evaluation.linear_probe import standardise
from beamclip.evaluation.paper_probe import PaperProtocol


def by_torch(x, y, protocol, seed=0):
    """The same with torch's own layer, optimiser and autograd."""
    inputs = standardise(x, True)(x) if protocol.standardised else x
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    solver = torch.optim.SGD(
        layer.parameters(),
        protocol.lr,
        0.9,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
    )
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(protocol.epochs):
        batches = torch.randperm(len(x), generator=generator).split(protocol.batch_size)
        for number, batch in enumerate(batches):
            solver.param_groups[0]["lr"] = protocol.rate(epoch + number / len(batches))
            solver.zero_grad()
            F.cross_entropy(layer(inputs[batch]), y[batch]).backward()
            solver.step()
    return layer


@pytest.mark.parametrize(
    "protocol",
    [
        PaperProtocol(0.01, 4, 1e-2, drops=(1, 3), standardised=True, batch_size=32),
        PaperProtocol(0.02, 3, 1e-6, batch_size=32),
        PaperProtocol(0.02, 3, 0.0, nesterov=True, batch_size=32),
    ],
)
def test_it_is_torch_s_sgd(protocol):
    x, y = blobs(100)
    probe, layer = fit_paper(x, y, protocol), by_torch(x, y, protocol)
    torch.testing.assert_close(probe.weight, layer.weight.detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(probe.bias, layer.bias.detach(), atol=1e-4, rtol=1e-3)
    assert probe.unit is protocol.standardised


def test_rates_fall_as_the_papers_say():
    seed, swav = PAPER_PROTOCOLS["seed"], PAPER_PROTOCOLS["swav"]
    assert [seed.rate(epoch) for epoch in (0, 59.9, 60, 79.9, 80)] == pytest.approx(
        [30, 30, 3, 3, 0.3]
    )
    assert [swav.rate(epoch) for epoch in (0, 50, 100)] == pytest.approx([0.3, 0.15, 0])


@pytest.mark.parametrize("name", list(PAPER_PROTOCOLS))
def test_each_learns_to_tell_classes_apart(name):
    (x, y), (x_new, y_new) = (blobs(300, signal=1.5), blobs(300, seed=1, signal=1.5))
    assert accuracy(fit_paper(x, y, PAPER_PROTOCOLS[name]).predict(x_new), y_new) > 85
