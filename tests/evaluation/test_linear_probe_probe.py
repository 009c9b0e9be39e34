import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from beamclip.config import UserError
from beamclip.evaluation import Probe, load_probe, save_probe


@pytest.fixture(params=[False, True], ids=["as they are", "unit length"])
def probe(request):
    g = torch.Generator().manual_seed(0)
    mean, std = torch.randn(8, generator=g), torch.rand(8, generator=g) + 0.5
    return Probe(
        torch.randn(3, 8, generator=g), torch.randn(3, generator=g), mean, std, request.param
    )


def test_logits_are_linear_in_standardised_features(probe):
    x = torch.randn(5, 8)
    z = ((F.normalize(x, dim=1) if probe.unit else x) - probe.mean) / probe.std
    torch.testing.assert_close(probe.logits(x), z @ probe.weight.T + probe.bias)
    assert probe.predict(x).tolist() == probe.logits(x).argmax(1).tolist()


def test_a_saved_probe_predicts_the_same(probe, tmp_path):
    x = torch.randn(5, 8)
    save_probe(probe, tmp_path / "probe.safetensors")
    assert torch.equal(load_probe(tmp_path / "probe.safetensors").logits(x), probe.logits(x))


def test_a_probe_of_an_earlier_version_is_one_on_features_as_they_are(probe, tmp_path):
    tensors = {name: getattr(probe, name) for name in ("weight", "bias", "mean", "std")}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"probe_format": "beamclip-probe-1"})
    assert load_probe(tmp_path / "old.safetensors").unit is False


def test_what_is_no_probe_is_a_sentence(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("missing", "other", "text"):
        with pytest.raises(UserError, match="can't be read as a linear probe"):
            load_probe(tmp_path / f"{name}.safetensors")
