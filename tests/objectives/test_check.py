import pytest
import torch
from mlflow import MlflowException
from mlflow.utils.validation import _validate_metric

from beamclip.objectives.check import find_problem

NAMES = [
    "top1",
    "a b/c-d.e:f",
    "τ",
    "loss%",
    "a,b",
    "a@b",
    "",
    "a//b",
    "/a",
    "../a",
    "a/",
    "x" * 245,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_refused_if_and_only_if_mlflow_can_not_log_it(name):
    loss = torch.ones((), requires_grad=True)
    problem = find_problem({"loss": loss, name: loss})
    try:
        _validate_metric(f"train/{name}", 1.0, 0, 0)
    except MlflowException:
        assert problem.startswith(
            f"returns {name!r}, which MLflow can't take as the name of a metric"
        )
    else:
        assert problem == ""
