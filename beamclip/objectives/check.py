"""Try an objective on random tensors, in a process of its own.

    python -m beamclip.objectives.check < SETTINGS

SETTINGS are those of `objective` as JSON. Prints one sentence and exits with 1 if the objective
fails. A sweep runs this before its trials start, so that a typo in a user's file costs seconds,
and so that the driver itself need not import torch.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from beamclip.config import ObjectiveConfig, UserError, first_line
from beamclip.objectives.base import LossContext, LossInputs
from beamclip.objectives.build import build_objective

_IMAGES = 4
_CLASSES = 3
_FEATURES = 16
_WIDTH = 8


def check_objective(config: ObjectiveConfig) -> None:
    """Build the objective and call it once on random tensors.

    Raises:
        UserError: it can't be built, it fails, or it returns something else than named scalars.
    """
    anchors = torch.randn(_CLASSES, _WIDTH)
    context = LossContext(
        features=_FEATURES,
        width=_WIDTH,
        train_images=2**20,
        classes=_CLASSES,
        anchors=[anchors],
        temperatures=[None],
        centres=torch.randn(config.clusters or 2, _WIDTH),
    )
    try:
        scalars = build_objective(config, context)(random_inputs(config))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"objective.name {config.name} fails on random tensors: {describe(error)}"
        ) from error
    problem = find_problem(scalars)
    if problem:
        raise UserError(f"objective.name {config.name} {problem}")


def random_inputs(config: ObjectiveConfig) -> LossInputs:
    """Return random inputs that hold what the objective requires, and nothing else."""
    requires = config.requirements
    rows = requires.views * _IMAGES
    crops = torch.randn(2 * _IMAGES, _FEATURES, requires_grad=True) if requires.crops else None
    return LossInputs(
        count=_IMAGES,
        features=torch.randn(rows, _FEATURES, requires_grad=True),
        embeddings=torch.randn(rows, _WIDTH, requires_grad=True) if requires.projected else None,
        crops=crops,
        teachers=(torch.randn(rows, _WIDTH),) if requires.embeddings else (),
        labels=torch.arange(_IMAGES) % _CLASSES if requires.labels else None,
        clusters=torch.arange(_IMAGES) % 2 if requires.clusters else None,
    )


def find_problem(scalars: object) -> str:
    """Return what is wrong with what an objective returned, or an empty string."""
    if not isinstance(scalars, dict) or "loss" not in scalars:
        return f'returns {type(scalars).__name__}; return a dict with "loss" and other scalars'
    for name, value in scalars.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            return f"returns {name} as something else than a tensor with one number"
    if not scalars["loss"].requires_grad:
        return "returns a loss without a gradient; compute it from the student's tensors"
    return ""


def describe(error: Exception) -> str:
    """Return an error with the file and line it came from."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = ""
    if traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename).name
        where = f" ({file}, line {traceback.tb_lineno})"
    return f"{type(error).__name__}: {first_line(error)}{where}"


def main() -> int:
    """Check the settings on standard input."""
    try:
        check_objective(ObjectiveConfig.model_validate_json(sys.stdin.read()))
    except UserError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
