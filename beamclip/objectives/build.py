"""Build objectives from settings, built-in ones and those of users and other packages."""

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
    """Build the objective that the settings name, or the weighted sum of several.

    Raises:
        UserError: a setting that the data can't meet, such as a queue longer than there are images;
            or a user's file that fails.
    """
    context = replace(
        context,
        teacher_temperature=config.teacher_temperature,
        student_temperature=config.student_temperature,
    )
    built = {}
    for declaration in config.declarations:
        target = load_objective(declaration, config.code)
        # `feature` and `simreg` have no settings, and so no section.
        settings = getattr(config, declaration.name, None) or declaration.settings()
        if isinstance(target, type) and issubclass(target, Objective):
            built[declaration.name] = target.build(settings, context)
        else:
            built[declaration.name] = FunctionObjective(target, settings.model_dump())
    return WeightedSum(built, config.weights) if len(built) > 1 else next(iter(built.values()))


def load_objective(declaration: Declaration, code: Mapping[str, str]) -> Any:
    """Return the function or class that a declaration names.

    Args:
        declaration: an objective.
        code: text of users' files by path; a file that is not in it is read.

    Raises:
        UserError: a user's file or another package fails when it is imported.
    """
    if declaration.path is None:
        assert declaration.module is not None
        try:
            module = import_module(declaration.module)
        except Exception as error:
            raise _failed(declaration.module, error) from error
    else:
        module = _load_file(declaration.path, source_of(declaration.path, code))
    return getattr(module, declaration.target)


def _load_file(path: str, source: str) -> types.ModuleType:
    """Run a user's file as a module of its own. The same text is run once in a process."""
    digest = hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()[:16]
    name = f"beamclip_objective_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    # Registered while it runs, because dataclasses look their module up.
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # the file that the user named
    except Exception as error:
        del sys.modules[name]
        raise _failed(path, error) from error
    return module


def _failed(where: str, error: Exception) -> UserError:
    return UserError(
        f"the objective's file {where} fails: {type(error).__name__}: {first_line(error)}; "
        "fix it and start again"
    )
