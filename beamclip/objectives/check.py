"""Try objectives on random tensors.

    python -m beamclip.objectives.check < SETTINGS

SETTINGS is a JSON list of `objective` sections of the settings. If one of the objectives fails,
this prints one sentence and exits with 1.

A sweep runs this before its trials start, so that a typo in a user's file costs seconds. It is a
process of its own, because the driver of a sweep doesn't import torch.
"""

import json
import posixpath
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from beamclip.config import ObjectiveConfig, UserError, first_line
from beamclip.objectives.base import LossContext, LossInputs
from beamclip.objectives.build import build_objective

# Sizes of the random tensors.
_IMAGES = 4
_CLASSES = 3
_FEATURES = 16
_WIDTH = 8
_CLUSTERS = 2
# MLflow's rules for the names of metrics. Its own function is not used, because only `tracking`
# imports mlflow.
_METRIC_NAME = re.compile(r"[\w./: -]+")
_MAX_METRIC_NAME_LENGTH = 250


def check_objective(config: ObjectiveConfig) -> None:
    """Build the objective and call it once on random tensors.

    Args:
        config: the `objective` settings.

    Raises:
        UserError: the objective can't be built, fails, or doesn't return named scalars.
    """
    anchors = torch.randn(_CLASSES, _WIDTH)
    context = LossContext(
        features=_FEATURES,
        width=_WIDTH,
        # Many, because an objective refuses a queue longer than the training images.
        train_images=2**20,
        classes=_CLASSES,
        anchors=[anchors],
        temperatures=[None],
        centers=torch.randn(config.clusters or _CLUSTERS, _WIDTH),
    )
    try:
        scalars = build_objective(config, context)(random_inputs(config))
    except UserError:
        raise
    # sys.exit() in a user's file must not count as success.
    except (Exception, SystemExit) as error:
        raise UserError(
            f"objective.name {config.name} fails on random tensors: {describe(error)}"
        ) from error
    problem = find_problem(scalars)
    if problem:
        raise UserError(f"objective.name {config.name} {problem}")


def random_inputs(config: ObjectiveConfig) -> LossInputs:
    """Return random inputs with only those fields that the objective requires.

    Args:
        config: the `objective` settings.
    """
    requires = config.requirements
    rows = requires.views * _IMAGES
    inputs = LossInputs(count=_IMAGES, features=torch.randn(rows, _FEATURES, requires_grad=True))
    if requires.projected:
        inputs.embeddings = torch.randn(rows, _WIDTH, requires_grad=True)
    if requires.crops:
        inputs.crops = torch.randn(2 * _IMAGES, _FEATURES, requires_grad=True)
    if requires.embeddings:
        inputs.teachers = (torch.randn(rows, _WIDTH),)
    if requires.labels:
        inputs.labels = torch.arange(_IMAGES) % _CLASSES
    if requires.clusters:
        inputs.clusters = torch.arange(_IMAGES) % _CLUSTERS
    return inputs


def find_problem(scalars: object) -> str:
    """Return the problem with an objective's return value, or an empty string if it is valid.

    The text continues a sentence that begins with the objective's name.
    """
    if isinstance(scalars, dict) and "loss" not in scalars:
        names = ", ".join(map(repr, scalars)) or "nothing"
        return f'returns {names}, but no "loss"; name the scalar to minimize "loss"'
    if not isinstance(scalars, dict):
        return f'returns {type(scalars).__name__}; return a dict with "loss" and other scalars'
    for name, value in scalars.items():
        if not _can_be_logged(f"train/{name}"):
            return (
                f"returns {name!r}, which MLflow can't take as the name of a metric; "
                "use letters, digits, _, -, ., spaces, : and single /"
            )
        if not isinstance(value, Tensor) or value.numel() != 1:
            return f"returns {name}, but not as a tensor with one number"
    if not scalars["loss"].requires_grad:
        return "returns a loss without a gradient; compute it from the student's tensors"
    return ""


def _can_be_logged(name: str) -> bool:
    """Return True if MLflow accepts the name of a metric."""
    is_path = posixpath.normpath(name) == name
    is_short = len(name) <= _MAX_METRIC_NAME_LENGTH
    return is_path and is_short and _METRIC_NAME.fullmatch(name) is not None


def describe(error: BaseException) -> str:
    """Return one line with an error's type, its message, and the file and line that raised it."""
    # The last frame of the traceback is the one that raised the error.
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    location = ""
    if traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename).name
        location = f" ({file}, line {traceback.tb_lineno})"
    return f"{type(error).__name__}: {first_line(error)}{location}"


def main() -> int:
    """Check the objectives whose settings are on standard input; return the exit code."""
    try:
        for config in json.load(sys.stdin):
            # As JSON, in which strict settings accept a list for a tuple.
            check_objective(ObjectiveConfig.model_validate_json(json.dumps(config)))
    except UserError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
