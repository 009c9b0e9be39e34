import pytest
import torch
import torch.nn.functional as F
from helpers.blobs import blobs
from sklearn.linear_model import LogisticRegression

from beamclip.evaluation import GridCell, accuracy, fit_grid
from beamclip.evaluation import grid_probe as module
from beamclip.evaluation.grid_probe import _gradient, _rotated
from beamclip.evaluation.linear_probe import standardise

CELLS = [GridCell(lr, decay) for decay in (1.0, 0.1, 0.01) for lr in (0.1, 0.5)]


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("decay", "epochs"), [(0.3, 200), (0.03, 200), (0.003, 2000)])
def test_its_optimum_is_scikit_learn_s(decay, epochs, unit):
    (x, y), (x_new, y_new) = blobs(600), blobs(2000, seed=1)
    probe = fit_grid(x, y, [GridCell(0.5, decay)], [unit], epochs, 600).probe(0, 0)
    inputs = standardise(x, unit)
    reference = LogisticRegression(C=1 / (decay * 600), max_iter=5000, tol=1e-8).fit(
        inputs(x).double().numpy(), y.numpy()
    )
    torch.testing.assert_close(
        probe.weight.double(), torch.from_numpy(reference.coef_), atol=0.02, rtol=0.02
    )
    expected = 100 * reference.score(inputs(x_new).double().numpy(), y_new.numpy())
    assert accuracy(probe.predict(x_new), y_new) == pytest.approx(expected, abs=0.3)


def test_a_few_passes_in_small_batches_are_as_accurate():
    (x, y), (x_new, y_new) = (
        blobs(4000, classes=12, width=64, signal=0.3),
        blobs(8000, seed=1, classes=12, width=64, signal=0.3),
    )
    fitted = fit_grid(x, y, [GridCell(0.1, 0.01), GridCell(0.1, 0.1)], [False], 6, 256)
    inputs = standardise(x)
    for cell, c in enumerate((1 / (0.01 * 4000), 1 / (0.1 * 4000))):
        reference = LogisticRegression(C=c, max_iter=1000).fit(inputs(x).numpy(), y.numpy())
        expected = 100 * reference.score(inputs(x_new).numpy(), y_new.numpy())
        assert fitted.top1(x_new, y_new)[0, cell].item() == pytest.approx(expected, abs=0.3)


def test_cells_trained_together_are_the_cells_trained_alone():
    x, y = blobs(300)
    together = fit_grid(x, y, CELLS, [False, True], 4, 64)
    for group, unit in enumerate((False, True)):
        for place, cell in enumerate(CELLS):
            one, alone = (
                together.probe(group, place),
                fit_grid(x, y, [cell], [unit], 4, 64).probe(0, 0),
            )
            torch.testing.assert_close(one.logits(x), alone.logits(x), atol=2e-3, rtol=2e-3)
            assert one.unit is unit


def test_all_cells_are_scored_as_their_probes_are(monkeypatch):
    x, y = blobs(200)
    fitted = fit_grid(x, y, CELLS, [False, True], 2, 64)
    top1 = fitted.top1(x, y)
    expected = [
        [accuracy(fitted.probe(g, c).predict(x), y) for c in range(len(CELLS))] for g in (0, 1)
    ]
    torch.testing.assert_close(
        top1, torch.tensor(expected, dtype=torch.float64), atol=0.51, rtol=0
    )  # one image may be a tie
    monkeypatch.setattr(module, "SCORES", 7 * len(CELLS) * 6)
    assert torch.equal(fitted.top1(x, y), top1)


def test_the_gradient_is_autograd_s():
    g = torch.Generator().manual_seed(0)
    parameters = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=g, requires_grad=True)
    z, labels = (
        torch.randn(2, 9, 5, dtype=torch.float64, generator=g),
        torch.randint(0, 4, (9,), generator=g),
    )
    logits = torch.einsum("gnf,gfck->gcnk", z, parameters)
    loss = sum(
        F.cross_entropy(logits[group, cell], labels) for group in range(2) for cell in range(3)
    )
    torch.testing.assert_close(
        _gradient(parameters.detach(), z, labels), torch.autograd.grad(loss, parameters)[0]
    )


def test_the_rotation_keeps_all_that_few_images_say():
    z = torch.randn(2, 4, 9)
    turned, scale, basis = _rotated(z)
    assert turned.shape == (2, 4, 5) and basis.shape == (2, 9, 4)
    torch.testing.assert_close(turned[:, :, :-1] @ basis.transpose(1, 2), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned.square().mean(1), scale, atol=1e-4, rtol=1e-4)


def test_few_images_get_enough_steps():
    x, y = blobs(30, signal=3)
    probe = fit_grid(x, y, [GridCell(0.5, 0.01)], [False], 1, 1024).probe(0, 0)
    assert accuracy(probe.predict(x), y) == 100


def test_a_class_without_images_is_never_predicted():
    x, y = blobs(300)
    probe = fit_grid(x[y != 2], y[y != 2], [GridCell(0.5, 0.01)], [False], 6, 64).probe(0, 0)
    assert probe.weight.shape == (6, 24) and bool(torch.isfinite(probe.weight).all())
    assert 2 not in probe.predict(x).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_cells():
    x, y = blobs(600)
    here, there = (
        fit_grid(x, y, CELLS, [False, True], 4, 64),
        fit_grid(x.cuda(), y.cuda(), CELLS, [False, True], 4, 64),
    )
    torch.testing.assert_close(
        there.probe(1, 3).logits(x.cuda()).cpu(), here.probe(1, 3).logits(x), atol=1e-2, rtol=1e-2
    )
