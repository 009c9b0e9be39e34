"""From a preset and `--set key=value` to a checked experiment."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.plain_yaml import NotPlain, read_yaml
from beamclip.config.tree import Tree, assign, checked


def preset_names() -> list[str]:
    """The presets that come with the package."""
    files = resources.files("beamclip.config.presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_preset(name: str) -> Tree:
    """A preset by name, or any YAML file by path.

    Raises:
        UserError: there is no such preset or file, or it is not a YAML mapping.
    """
    if name.endswith((".yaml", ".yml")):
        return _read_yaml(Path(name))
    if name not in preset_names():
        raise UserError(f"preset {name} does not exist{nearest(name, preset_names())}")
    text = resources.files("beamclip.config.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return dict(read_yaml(text))


def _read_yaml(path: Path) -> Tree:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"preset {path} can't be read ({error.strerror}); give a preset's name or a YAML file") from None
    except NotPlain as error:
        raise UserError(f"{path} {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold settings as `key: value`, like the built-in presets")
    return tree


def parse_assignments(assignments: Sequence[str], option: str = "--set") -> Tree:
    """`["optimiser.lr=1e-3"]` -> `{"optimiser.lr": 0.001}`. Values are YAML, so lists are written `[1, 2]`.

    Raises:
        UserError: an item has no `=` or its value is not YAML.
    """
    return dict(_parse_assignment(item, option) for item in assignments)


def _parse_assignment(item: str, option: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {item} has no value; write {option} {key or 'key'}=VALUE")
    try:
        return key.strip(), read_yaml(text)
    except NotPlain as error:
        raise UserError(f"{option} {key.strip()} {error}") from None
    except yaml.YAMLError:
        raise UserError(f"{option} {item}: {text!r} is not a value; quote it as YAML would") from None


def load_experiment(preset: str, values: Mapping[str, Any] | None = None) -> Experiment:
    """Preset, then dotted values over it, then all checks.

    Raises:
        UserError: as one sentence, naming the key.
    """
    return checked(Experiment, assign(read_preset(preset), values or {}))


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A copy with dotted keys set, checked again as a whole."""
    return checked(Experiment, assign(experiment.model_dump(mode="json"), values))
