"""The files that an evaluation leaves beside its probe."""

import json
from collections.abc import Sequence
from pathlib import Path

from beamclip.config import UserError
from beamclip.evaluation.evaluate import Evaluation
from beamclip.students import write_tensors

FORMAT = "beamclip-evaluation-1"


def save_evaluation(evaluation: Evaluation, folder: Path, names: Sequence[str] = ()) -> None:
    """Write what lies behind the metrics into an existing folder.

    `evaluation.json`: `protocol`; `cells` with `settings` and `val_top1`, and `chosen`, the number of the chosen one; `knn`, `few_shot`;
    `linear_probe` and `zero_shot` (null where there is none), each with `top1`, `top5`, `ece`, their `_low` and `_high`, `per_class`
    (`class`, `images`, `top1`, `low`, `high`), `confusion` as [true, predicted, images] of what is wrong, and `calibration` by bin;
    `names`. Accuracies in per cent, over test unless they say val.
    `predictions.safetensors`: int64 `ids`, `labels`, `probe`, and `zero_shot` where there is one; fp32 `probe_confidence` and
    `zero_shot_confidence`; all [N], over test in order.

    Args:
        names: of the classes, in label order.

    Raises:
        UserError: a file can't be written.
    """
    content = {"format": FORMAT, "names": list(names), "metrics": evaluation.metrics, **evaluation.details}
    path = folder / "evaluation.json"
    try:
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); free space or choose another storage") from None
    write_tensors(folder / "predictions.safetensors", evaluation.predictions, {"predictions_format": FORMAT})
