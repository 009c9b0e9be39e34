import json

import pytest
import torch
from safetensors.torch import load_file

from beamclip.config import UserError
from beamclip.evaluation import Evaluation, Probe, save_evaluation

PROBE = Probe(torch.ones(2, 3), torch.zeros(2), torch.zeros(3), torch.ones(3))


@pytest.fixture
def evaluation():
    columns = {
        "ids": torch.tensor([7, 9]),
        "labels": torch.tensor([0, 1]),
        "probe": torch.tensor([0, 0]),
    }
    columns["probe_confidence"] = torch.tensor([0.9, 0.6])
    return Evaluation(
        {"linear_probe/test_top1": 50.0},
        PROBE,
        {"protocol": "grid", "cells": [], "zero_shot": None},
        columns,
    )


def test_both_files_read_back(evaluation, tmp_path):
    save_evaluation(evaluation, tmp_path, ("crane", "wren"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "evaluation.json",
        "predictions.safetensors",
    ]
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == {
        "format": "beamclip-evaluation-1", "names": ["crane", "wren"], "metrics": {"linear_probe/test_top1": 50.0},
        "protocol": "grid", "cells": [], "zero_shot": None,
    }  # fmt: skip
    predictions = load_file(tmp_path / "predictions.safetensors")
    assert {name: column.tolist() for name, column in predictions.items() if name != "probe_confidence"} == {
        "ids": [7, 9], "labels": [0, 1], "probe": [0, 0],
    }  # fmt: skip
    assert (
        predictions["ids"].dtype == torch.int64
        and predictions["probe_confidence"].dtype == torch.float32
    )


def test_a_folder_that_is_not_there_is_a_sentence(evaluation, tmp_path):
    with pytest.raises(UserError, match=r"evaluation\.json can't be written \(No such file"):
        save_evaluation(evaluation, tmp_path / "missing")
