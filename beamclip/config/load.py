"""Load presets, and build an experiment from a preset and overrides."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.objective_registry import find_objective
from beamclip.config.overrides import Tree, assign
from beamclip.config.plain_yaml import UnsupportedYaml, read_yaml
from beamclip.config.renamed import current_names
from beamclip.config.validation import validate

_PRESETS = "beamclip.config.presets"


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package, sorted."""
    files = [file.name for file in resources.files(_PRESETS).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read_preset(name: str) -> Tree:
    """Read a preset.

    Args:
        name: a preset's name, or the path of a YAML file.

    Raises:
        UserError: there is no such preset or file, or it is not a YAML mapping.
    """
    if name.endswith((".yaml", ".yml")):
        return _read_file(Path(name))
    if name not in preset_names():
        raise UserError(f"preset {name} does not exist{nearest(name, preset_names())}")
    file = resources.files(_PRESETS).joinpath(f"{name}.yaml")
    return dict(read_yaml(file.read_text(encoding="utf-8")))


def _read_file(path: Path) -> Tree:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"preset {path} can't be read ({error.strerror}); give a preset's name or a YAML file"
        ) from None
    except UnsupportedYaml as error:
        raise UserError(f"{path} {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        # PyYAML's messages span several lines.
        message = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as YAML: {message}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold settings as `key: value`, like the built-in presets")
    return current_names(tree, announce=True)


def load_experiment(preset: str, values: Mapping[str, Any] | None = None) -> Experiment:
    """Return a preset with values set on top, as a validated experiment.

    Args:
        preset: a preset's name, or the path of a YAML file.
        values: settings by dotted key, such as `{"optimizer.lr": 0.001}`.

    Raises:
        UserError: the preset does not exist or can't be read, or a setting is wrong. The message
            names the key.
    """
    tree = read_preset(preset)
    overrides = current_names(values or {}, announce=True)
    return validate(Experiment, assign(tree, overrides))


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return a copy of an experiment with values set, validated again as a whole.

    Args:
        experiment: the experiment to copy.
        values: settings by dotted key.

    Raises:
        UserError: a value is wrong, or doesn't fit the other settings. The message names the key.
    """
    tree = experiment.model_dump(mode="json")
    if "objective.name" in values:
        # Sections of objectives that are not built in exist only while `objective.name` names them.
        code = values.get("objective.code", experiment.objective.code)
        named = _short_names(str(values["objective.name"]), code)
        for section in experiment.objective.model_extra or {}:
            if section not in named:
                del tree["objective"][section]
    return validate(Experiment, assign(tree, values))


def _short_names(name: str, code: Mapping[str, str]) -> set[str]:
    """Return the short names of the objectives in `objective.name`; none if one doesn't exist."""
    try:
        return {find_objective(part, code).name for part in name.split("+")}
    except ValueError:
        # Validation reports it.
        return set()
