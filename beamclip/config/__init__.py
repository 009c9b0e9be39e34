"""What an experiment is: strict models, named presets, overrides. Imports no torch."""

from beamclip.config.base import Strict
from beamclip.config.errors import UserError, first_line, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.inputs import AnchorsConfig, BalanceConfig, DataConfig, ViewsConfig
from beamclip.config.load import (
    flatten,
    known_keys,
    load_experiment,
    parse_assignments,
    preset_names,
    validate,
    with_values,
)
from beamclip.config.objective import (
    REQUIREMENTS,
    ClipCidConfig,
    ObjectiveConfig,
    QueueConfig,
    Requirements,
    SimclrConfig,
    SupervisedConfig,
    SwavConfig,
)
from beamclip.config.probe import FEW_SHOT, GridConfig, ProbeConfig
from beamclip.config.prompts import PromptSet, built_in_prompt_sets
from beamclip.config.student import OptimiserConfig, StudentConfig
from beamclip.config.sweep import (
    Asha,
    Choice,
    Sweep,
    Uniform,
    cell,
    check_space,
    choice,
    loguniform,
    planned_values,
    start_of,
    trial_count,
    uniform,
)
from beamclip.config.teacher import OtherTeacher, TeacherConfig, TowerConfig
from beamclip.config.views import RECIPES, Recipe

__all__ = [
    "FEW_SHOT",
    "RECIPES",
    "REQUIREMENTS",
    "AnchorsConfig",
    "Asha",
    "BalanceConfig",
    "Choice",
    "ClipCidConfig",
    "DataConfig",
    "Experiment",
    "GridConfig",
    "ObjectiveConfig",
    "OptimiserConfig",
    "OtherTeacher",
    "ProbeConfig",
    "PromptSet",
    "QueueConfig",
    "Recipe",
    "Requirements",
    "SimclrConfig",
    "Strict",
    "StudentConfig",
    "SupervisedConfig",
    "SwavConfig",
    "Sweep",
    "TeacherConfig",
    "TowerConfig",
    "Uniform",
    "UserError",
    "ViewsConfig",
    "built_in_prompt_sets",
    "cell",
    "check_space",
    "choice",
    "first_line",
    "flatten",
    "known_keys",
    "load_experiment",
    "loguniform",
    "nearest",
    "parse_assignments",
    "planned_values",
    "preset_names",
    "start_of",
    "trial_count",
    "uniform",
    "validate",
    "with_values",
]
