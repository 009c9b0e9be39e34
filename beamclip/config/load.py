"""Load presets, and build an experiment from a preset and overrides."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
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
    return validate(Experiment, assign(tree, values))
