"""The linear probe: standardization, fit, files."""

import pytest
import torch
import torch.nn.functional as F
from helpers.blobs import blobs
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize, scale

from beamclip.config import UserError
from beamclip.evaluation import Probe, accuracy, fit_probe, linear_probe, load_probe, save_probe
from beamclip.evaluation.linear_probe import (
    check_fittable,
    fit_standardizer,
    loss_and_gradient,
    sweep_inverse_l2,
)


@pytest.mark.parametrize("unit", [False, True])
def test_standardization_is_scikit_learn_s(unit):
    x = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 5
    expected = scale(normalize(x.double().numpy()) if unit else x.double().numpy())
    standardize = fit_standardizer(x, unit)
    torch.testing.assert_close(
        standardize(x).double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4
    )


def test_new_features_are_standardized_by_the_train_images():
    x = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    standardize = fit_standardizer(x)
    # The constant feature is shifted only.
    assert standardize(torch.tensor([[5.0, 8.0]])).tolist() == [[4.0, 1.0]]


def test_inputs_that_can_not_be_fitted_are_user_errors():
    with pytest.raises(UserError, match="contain NaN or infinity"):
        check_fittable(torch.tensor([[1.0], [float("nan")]]), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="needs two classes, but all 2 train labels are 3"):
        check_fittable(torch.ones(2, 1), torch.tensor([3, 3]))


def objective(weight, bias, z, y, c):
    """scikit-learn's objective written out in fp64."""
    logits = z.double() @ torch.as_tensor(weight).double().T + torch.as_tensor(bias).double()
    loss = F.cross_entropy(logits, y, reduction="sum")
    return (c * loss + 0.5 * torch.as_tensor(weight).double().square().sum()).item()


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
def test_equals_scikit_learn(c):
    (x, y), (x_new, y_new) = blobs(600), blobs(1000, seed=1)
    probe = fit_probe(x, y, c, 200)
    z, z_new = ((part - x.mean(0)) / x.std(0, correction=0) for part in (x, x_new))
    reference = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(z.double().numpy(), y.numpy())
    ours = objective(probe.weight, probe.bias, z, y, c)
    theirs = objective(reference.coef_, reference.intercept_, z, y, c)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert accuracy(probe.predict(x_new), y_new) == pytest.approx(
        100 * reference.score(z_new.double().numpy(), y_new.numpy()), abs=0.3
    )
    torch.testing.assert_close(
        probe.weight.double(), torch.tensor(reference.coef_), atol=0.02, rtol=0.02
    )


def test_the_gradient_is_autograd_s_and_the_block_size_changes_nothing(monkeypatch):
    x, y = blobs(50)
    x = x.double()
    parameters = torch.randn(6, 25, dtype=torch.float64, requires_grad=True)
    loss, gradient = loss_and_gradient(parameters.detach(), x, y, 0.3)
    expected = mean_objective(parameters, x, y, 0.3)
    assert loss.item() == pytest.approx(expected.item())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, parameters)[0])
    monkeypatch.setattr(linear_probe, "ROWS", 7)
    torch.testing.assert_close(loss_and_gradient(parameters.detach(), x, y, 0.3), (loss, gradient))


def mean_objective(parameters, x, y, c):
    logits = x @ parameters[:, :-1].T + parameters[:, -1]
    return F.cross_entropy(logits, y) + parameters[:, :-1].square().sum() / (2 * c * len(x))


def test_scale_and_shift_of_features_do_not_matter():
    x, y = blobs(300)
    shifted = fit_probe(1000 * x - 7, y, 1.0, 200)
    torch.testing.assert_close(
        shifted.logits(1000 * x - 7), fit_probe(x, y, 1.0, 200).logits(x), atol=1e-2, rtol=1e-2
    )


def test_a_constant_feature_is_ignored():
    x, y = blobs(300)
    padded = torch.cat([x, torch.full((300, 1), 0.1), torch.zeros(300, 1)], dim=1)
    probe = fit_probe(padded, y, 1.0, 200)
    assert probe.weight[:, -2:].abs().max() < 1e-5
    torch.testing.assert_close(
        probe.logits(padded), fit_probe(x, y, 1.0, 200).logits(x), atol=1e-2, rtol=1e-2
    )


def test_a_warm_start_reaches_the_same_optimum_sooner():
    x, y = blobs(300)
    cold = fit_probe(x, y, 1.0, 200)
    near = fit_probe(x, y, 0.9, 200)
    torch.testing.assert_close(
        fit_probe(x, y, 1.0, 200, init=near).weight, cold.weight, atol=2e-3, rtol=1e-2
    )
    few_cold = fit_probe(x, y, 1.0, 2)
    few_warm = fit_probe(x, y, 1.0, 2, init=near)
    assert (few_warm.weight - cold.weight).norm() < 0.2 * (few_cold.weight - cold.weight).norm()


def test_a_sweep_over_c_gives_the_probe_of_each_c_alone():
    x, y = blobs(150)
    probes = sweep_inverse_l2(x, y, (10.0, 0.001, 0.1, 10.0), 200)
    assert list(probes) == [0.001, 0.1, 10.0]
    for c, probe in probes.items():
        alone = fit_probe(x, y, c, 200)
        torch.testing.assert_close(probe.logits(x), alone.logits(x), atol=0.05, rtol=0.02)


def test_fitting_nan_or_a_single_class_is_a_user_error():
    x, y = blobs(20)
    x[3, 2] = float("nan")
    with pytest.raises(UserError, match="contain NaN or infinity"):
        fit_probe(x, y, 1.0, 10)
    with pytest.raises(UserError, match="needs two classes, but all 20 train labels are 0"):
        fit_probe(torch.randn(20, 4), torch.zeros(20, dtype=torch.int64), 1.0, 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_probe():
    x, y = blobs(600)
    on_gpu = fit_probe(x.cuda(), y.cuda(), 1.0, 200)
    torch.testing.assert_close(
        on_gpu.weight.cpu(), fit_probe(x, y, 1.0, 200).weight, atol=2e-3, rtol=1e-2
    )


@pytest.fixture(params=[False, True], ids=["as they are", "unit length"])
def probe(request):
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(8, generator=g)
    std = torch.rand(8, generator=g) + 0.5
    weight = torch.randn(3, 8, generator=g)
    bias = torch.randn(3, generator=g)
    return Probe(weight, bias, mean, std, request.param)


def test_logits_are_linear_in_standardized_features(probe):
    x = torch.randn(5, 8)
    z = ((F.normalize(x, dim=1) if probe.unit else x) - probe.mean) / probe.std
    torch.testing.assert_close(probe.logits(x), z @ probe.weight.T + probe.bias)
    assert probe.predict(x).tolist() == probe.logits(x).argmax(1).tolist()


def test_a_saved_probe_predicts_the_same(probe, tmp_path):
    x = torch.randn(5, 8)
    save_probe(probe, tmp_path / "probe.safetensors")
    assert torch.equal(load_probe(tmp_path / "probe.safetensors").logits(x), probe.logits(x))


def test_a_probe_of_an_earlier_version_does_not_use_unit_length(probe, tmp_path):
    tensors = {name: getattr(probe, name) for name in ("weight", "bias", "mean", "std")}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"probe_format": "beamclip-probe-1"})
    assert load_probe(tmp_path / "old.safetensors").unit is False


def test_a_file_that_is_not_a_probe_is_a_user_error(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("missing", "other", "text"):
        with pytest.raises(UserError, match="can't be read as a linear probe"):
            load_probe(tmp_path / f"{name}.safetensors")
