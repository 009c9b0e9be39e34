import pytest
import torch
from helpers.blobs import blobs
from sklearn.linear_model import LogisticRegression

from beamclip.config import UserError
from beamclip.evaluation import accuracy, fit_probe, linear_probe
from beamclip.evaluation.linear_probe import loss_and_gradient, sweep_inverse_l2


def objective(weight, bias, z, y, c):
    """scikit-learn's objective written out in fp64."""
    logits = z.double() @ torch.as_tensor(weight).double().T + torch.as_tensor(bias).double()
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    return (c * loss + 0.5 * torch.as_tensor(weight).double().square().sum()).item()


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
def test_equals_scikit_learn(c):
    (x, y), (x_new, y_new) = blobs(600), blobs(1000, seed=1)
    probe = fit_probe(x, y, c, 200)
    z, z_new = ((part - x.mean(0)) / x.std(0, correction=0) for part in (x, x_new))
    reference = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(z.double().numpy(), y.numpy())
    ours, theirs = (
        objective(probe.weight, probe.bias, z, y, c),
        objective(reference.coef_, reference.intercept_, z, y, c),
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert accuracy(probe.predict(x_new), y_new) == pytest.approx(
        100 * reference.score(z_new.double().numpy(), y_new.numpy()), abs=0.3
    )
    torch.testing.assert_close(
        probe.weight.double(), torch.tensor(reference.coef_), atol=0.02, rtol=0.02
    )


def test_the_gradient_is_autograd_s_and_rows_in_blocks_change_nothing(monkeypatch):
    (x, y), parameters = blobs(50), torch.randn(6, 25, dtype=torch.float64, requires_grad=True)
    x = x.double()
    loss, gradient = loss_and_gradient(parameters.detach(), x, y, 0.3)
    written_out = objective_tensor(parameters, x, y, 0.3)
    assert loss.item() == pytest.approx(written_out.item())
    torch.testing.assert_close(gradient, torch.autograd.grad(written_out, parameters)[0])
    monkeypatch.setattr(linear_probe, "ROWS", 7)
    torch.testing.assert_close(loss_and_gradient(parameters.detach(), x, y, 0.3), (loss, gradient))


def objective_tensor(parameters, x, y, c):
    logits = x @ parameters[:, :-1].T + parameters[:, -1]
    return torch.nn.functional.cross_entropy(logits, y) + parameters[:, :-1].square().sum() / (
        2 * c * len(x)
    )


def test_scale_and_shift_of_features_do_not_matter():
    x, y = blobs(300)
    moved = fit_probe(1000 * x - 7, y, 1.0, 200)
    torch.testing.assert_close(
        moved.logits(1000 * x - 7), fit_probe(x, y, 1.0, 200).logits(x), atol=1e-2, rtol=1e-2
    )


def test_a_constant_feature_is_ignored():
    x, y = blobs(300)
    padded = torch.cat([x, torch.full((300, 1), 0.1), torch.zeros(300, 1)], dim=1)
    probe = fit_probe(padded, y, 1.0, 200)
    assert probe.weight[:, -2:].abs().max() < 1e-5
    torch.testing.assert_close(
        probe.logits(padded), fit_probe(x, y, 1.0, 200).logits(x), atol=1e-2, rtol=1e-2
    )


def test_a_warm_start_ends_at_the_same_optimum_sooner():
    x, y = blobs(300)
    cold, near = fit_probe(x, y, 1.0, 200), fit_probe(x, y, 0.9, 200)
    torch.testing.assert_close(
        fit_probe(x, y, 1.0, 200, init=near).weight, cold.weight, atol=2e-3, rtol=1e-2
    )
    few_cold, few_warm = fit_probe(x, y, 1.0, 2), fit_probe(x, y, 1.0, 2, init=near)
    assert (few_warm.weight - cold.weight).norm() < 0.2 * (few_cold.weight - cold.weight).norm()


def test_a_sweep_over_c_ends_where_each_c_alone_does():
    x, y = blobs(150)
    probes = sweep_inverse_l2(x, y, (10.0, 0.001, 0.1, 10.0), 200)
    assert list(probes) == [0.001, 0.1, 10.0]
    for c, probe in probes.items():
        alone = fit_probe(x, y, c, 200)
        torch.testing.assert_close(probe.logits(x), alone.logits(x), atol=0.05, rtol=0.02)


def test_bad_features_and_a_single_class_are_sentences():
    x, y = blobs(20)
    x[3, 2] = float("nan")
    with pytest.raises(UserError, match="hold NaN or infinity"):
        fit_probe(x, y, 1.0, 10)
    with pytest.raises(UserError, match="needs two classes, but all 20 train labels are 0"):
        fit_probe(torch.randn(20, 4), torch.zeros(20, dtype=torch.int64), 1.0, 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_probe():
    x, y = blobs(600)
    there = fit_probe(x.cuda(), y.cuda(), 1.0, 200)
    torch.testing.assert_close(
        there.weight.cpu(), fit_probe(x, y, 1.0, 200).weight, atol=2e-3, rtol=1e-2
    )
