import pytest
import torch
from sklearn.preprocessing import normalize, scale

from beamclip.config import UserError
from beamclip.evaluation.linear_probe import check_fittable, standardise


@pytest.mark.parametrize("unit", [False, True])
def test_it_is_scikit_learn_s(unit):
    x = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 5
    expected = scale(normalize(x.double().numpy()) if unit else x.double().numpy())
    torch.testing.assert_close(
        standardise(x, unit)(x).double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4
    )


def test_new_features_are_moved_by_what_train_says():
    x = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    assert standardise(x)(torch.tensor([[5.0, 8.0]])).tolist() == [
        [4.0, 1.0]
    ]  # the constant feature is only moved


def test_what_can_not_be_fitted_is_a_sentence():
    with pytest.raises(UserError, match="hold NaN or infinity"):
        check_fittable(torch.tensor([[1.0], [float("nan")]]), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="needs two classes, but all 2 train labels are 3"):
        check_fittable(torch.ones(2, 1), torch.tensor([3, 3]))
