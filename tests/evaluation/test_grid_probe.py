"""Compare the grid of probes with scikit-learn, autograd and probes trained alone."""

import pytest
import torch
import torch.nn.functional as F
from helpers.blobs import blobs
from sklearn.linear_model import LogisticRegression

from beamclip.evaluation import ProbeSetting, SgdSchedule, accuracy, fit_grid
from beamclip.evaluation import grid_probe as module
from beamclip.evaluation.grid_probe import _gradient, _rotate
from beamclip.evaluation.linear_probe import fit_standardizer

SETTINGS = [ProbeSetting(lr, decay) for decay in (1.0, 0.1, 0.01) for lr in (0.1, 0.5)]


@pytest.mark.slow
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("decay", "epochs"), [(0.3, 200), (0.03, 200), (0.003, 2000)])
def test_its_optimum_equals_scikit_learn_s(decay, epochs, unit):
    (x, y), (x_new, y_new) = blobs(600), blobs(2000, seed=1)
    schedule = SgdSchedule(epochs, batch_size=600)
    probe = fit_grid(x, y, [ProbeSetting(0.5, decay)], [unit], schedule).probe(0, 0)
    standardize = fit_standardizer(x, unit)
    reference = LogisticRegression(C=1 / (decay * 600), max_iter=5000, tol=1e-8).fit(
        standardize(x).double().numpy(), y.numpy()
    )
    torch.testing.assert_close(
        probe.weight.double(), torch.from_numpy(reference.coef_), atol=0.02, rtol=0.02
    )
    expected = 100 * reference.score(standardize(x_new).double().numpy(), y_new.numpy())
    assert accuracy(probe.predict(x_new), y_new) == pytest.approx(expected, abs=0.3)


def test_few_epochs_in_small_batches_are_as_accurate_as_scikit_learn():
    x, y = blobs(4000, classes=12, width=64, signal=0.3)
    x_new, y_new = blobs(8000, seed=1, classes=12, width=64, signal=0.3)
    settings = [ProbeSetting(0.1, 0.01), ProbeSetting(0.1, 0.1)]
    fitted = fit_grid(x, y, settings, [False], SgdSchedule(epochs=6, batch_size=256))
    standardize = fit_standardizer(x)
    for index, c in enumerate((1 / (0.01 * 4000), 1 / (0.1 * 4000))):
        reference = LogisticRegression(C=c, max_iter=1000).fit(standardize(x).numpy(), y.numpy())
        expected = 100 * reference.score(standardize(x_new).numpy(), y_new.numpy())
        assert fitted.top1(x_new, y_new)[0, index].item() == pytest.approx(expected, abs=0.3)


def test_probes_trained_together_equal_probes_trained_alone():
    x, y = blobs(300)
    schedule = SgdSchedule(epochs=4, batch_size=64)
    together = fit_grid(x, y, SETTINGS, [False, True], schedule)
    for group, unit in enumerate((False, True)):
        for index, setting in enumerate(SETTINGS):
            probe = together.probe(group, index)
            alone = fit_grid(x, y, [setting], [unit], schedule).probe(0, 0)
            torch.testing.assert_close(probe.logits(x), alone.logits(x), atol=2e-3, rtol=2e-3)
            assert probe.unit is unit


def test_accuracies_of_the_grid_equal_those_of_its_single_probes(monkeypatch):
    x, y = blobs(200)
    fitted = fit_grid(x, y, SETTINGS, [False, True], SgdSchedule(epochs=2, batch_size=64))
    top1 = fitted.top1(x, y)
    expected = torch.zeros(2, len(SETTINGS), dtype=torch.float64)
    for group in (0, 1):
        for index in range(len(SETTINGS)):
            expected[group, index] = accuracy(fitted.probe(group, index).predict(x), y)
    # Allow one image of 200 to have a tie.
    torch.testing.assert_close(top1, expected, atol=0.51, rtol=0)
    monkeypatch.setattr(module, "SCORES", 7 * len(SETTINGS) * 6)
    assert torch.equal(fitted.top1(x, y), top1)


def test_the_gradient_equals_autograd_s():
    g = torch.Generator().manual_seed(0)
    parameters = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=g, requires_grad=True)
    z = torch.randn(2, 9, 5, dtype=torch.float64, generator=g)
    labels = torch.randint(0, 4, (9,), generator=g)
    logits = torch.einsum("gnf,gfck->gcnk", z, parameters)
    loss = sum(
        F.cross_entropy(logits[group, index], labels) for group in range(2) for index in range(3)
    )
    torch.testing.assert_close(
        _gradient(parameters.detach(), z, labels), torch.autograd.grad(loss, parameters)[0]
    )


def test_the_rotation_is_lossless_with_fewer_images_than_features():
    z = torch.randn(2, 4, 9)
    rotated, eigenvalues, basis = _rotate(z)
    assert rotated.shape == (2, 4, 5) and basis.shape == (2, 9, 4)
    torch.testing.assert_close(rotated[:, :, :-1] @ basis.transpose(1, 2), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotated.square().mean(1), eigenvalues, atol=1e-4, rtol=1e-4)


def test_few_images_still_get_enough_steps():
    x, y = blobs(30, signal=3)
    schedule = SgdSchedule(epochs=1, batch_size=1024)
    probe = fit_grid(x, y, [ProbeSetting(0.5, 0.01)], [False], schedule).probe(0, 0)
    assert accuracy(probe.predict(x), y) == 100


def test_a_class_without_images_is_never_predicted():
    x, y = blobs(300)
    schedule = SgdSchedule(epochs=6, batch_size=64)
    fitted = fit_grid(x[y != 2], y[y != 2], [ProbeSetting(0.5, 0.01)], [False], schedule)
    probe = fitted.probe(0, 0)
    assert probe.weight.shape == (6, 24) and bool(torch.isfinite(probe.weight).all())
    assert 2 not in probe.predict(x).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_probes():
    x, y = blobs(600)
    schedule = SgdSchedule(epochs=4, batch_size=64)
    on_cpu = fit_grid(x, y, SETTINGS, [False, True], schedule)
    on_gpu = fit_grid(x.cuda(), y.cuda(), SETTINGS, [False, True], schedule)
    gpu_logits = on_gpu.probe(1, 3).logits(x.cuda()).cpu()
    torch.testing.assert_close(gpu_logits, on_cpu.probe(1, 3).logits(x), atol=1e-2, rtol=1e-2)
