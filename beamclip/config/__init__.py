"""Settings: strict models, presets, overrides, search spaces, errors. Imports no torch."""

from beamclip.config.anchors import AnchorsConfig, PromptSet, built_in_prompt_sets
from beamclip.config.base import Strict
from beamclip.config.data import BalanceConfig, DataConfig
from beamclip.config.errors import UserError, first_line, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.load import load_experiment, preset_names, with_values
from beamclip.config.objective import ObjectiveConfig
from beamclip.config.objective_registry import (
    ObjectiveSettings,
    Requirements,
    register_objective,
)
from beamclip.config.overrides import flatten, known_keys, parse_assignments
from beamclip.config.probe import FEW_SHOT, GridConfig, ProbeConfig
from beamclip.config.space import (
    check_space,
    init_experiment,
    planned_values,
    trial_count,
    trial_experiment,
)
from beamclip.config.student import OptimizerConfig, StudentConfig
from beamclip.config.sweep import Asha, Choice, Sweep, Uniform, choice, loguniform, uniform
from beamclip.config.teacher import OtherTeacher, TeacherConfig, TowerConfig
from beamclip.config.validation import validate
from beamclip.config.views import RECIPES, Recipe, ViewsConfig

__all__ = [
    "FEW_SHOT",
    "RECIPES",
    "AnchorsConfig",
    "Asha",
    "BalanceConfig",
    "Choice",
    "DataConfig",
    "Experiment",
    "GridConfig",
    "ObjectiveConfig",
    "ObjectiveSettings",
    "OptimizerConfig",
    "OtherTeacher",
    "ProbeConfig",
    "PromptSet",
    "Recipe",
    "Requirements",
    "Strict",
    "StudentConfig",
    "Sweep",
    "TeacherConfig",
    "TowerConfig",
    "Uniform",
    "UserError",
    "ViewsConfig",
    "built_in_prompt_sets",
    "check_space",
    "choice",
    "first_line",
    "flatten",
    "init_experiment",
    "known_keys",
    "load_experiment",
    "loguniform",
    "nearest",
    "parse_assignments",
    "planned_values",
    "preset_names",
    "register_objective",
    "trial_count",
    "trial_experiment",
    "uniform",
    "validate",
    "with_values",
]
