"""Build the objectives that the settings name: built-in ones, users' files, other packages."""

import hashlib
import sys
import types
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from beamclip.config import ObjectiveConfig, UserError, first_line
from beamclip.config.objective_registry import Declaration, source_of
from beamclip.objectives.base import FunctionObjective, LossContext, Objective, WeightedSum


def build_objective(config: ObjectiveConfig, context: LossContext) -> Objective:
    """Build the objective that the settings name, or the weighted sum if they name several.

    Args:
        config: the `objective` settings.
        context: facts about the student, the data and the teachers. Its `teacher_temperature` and
            `student_temperature` are taken from `config`.

    Raises:
        UserError: a setting doesn't fit the data, such as a queue longer than the number of
            training images; or a user's file fails when it is imported.
    """
    context = replace(
        context,
        teacher_temperature=config.teacher_temperature,
        student_temperature=config.student_temperature,
    )
    objectives = {}
    for declaration in config.declarations:
        target = load_objective(declaration, config.code)
        # `feature` and `simreg` have no settings and no section of their own.
        settings = getattr(config, declaration.name, None) or declaration.settings()
        if isinstance(target, type) and issubclass(target, Objective):
            objectives[declaration.name] = target.build(settings, context)
        else:
            objectives[declaration.name] = FunctionObjective(target, settings.model_dump())
    if len(objectives) > 1:
        return WeightedSum(objectives, config.weights)
    return next(iter(objectives.values()))


def load_objective(declaration: Declaration, code: Mapping[str, str]) -> Any:
    """Import the file of an objective and return its function or class.

    Args:
        declaration: the objective.
        code: the text of users' files by path. A sweep stores it, so that workers and a resumed run
            use the text that it started with. A file that is missing here is read from disk.

    Raises:
        UserError: a user's file or another package fails when it is imported.
    """
    if declaration.path is None:
        assert declaration.module is not None
        try:
            module = import_module(declaration.module)
        except Exception as error:
            raise _import_error(declaration.module, error) from error
    else:
        module = _run_file(declaration.path, source_of(declaration.path, code))
    return getattr(module, declaration.target)


def _run_file(path: str, source: str) -> types.ModuleType:
    """Run the text of a user's file as a module, once per process, and return the module."""
    # The name depends on the text, so that two versions of a file don't replace each other.
    digest = hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()[:16]
    name = f"beamclip_objective_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    # Register before running: @dataclass looks up the module of its class in sys.modules.
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # the file that the user named
    except (Exception, SystemExit) as error:
        # A module that failed halfway must not be found by the next call.
        del sys.modules[name]
        raise _import_error(path, error) from error
    return module


def _import_error(file: str, error: BaseException) -> UserError:
    return UserError(
        f"the objective's file {file} fails: {type(error).__name__}: {first_line(error)}; "
        "fix it and start again"
    )
