"""What an experiment is: strict models, named presets, overrides. Imports no torch."""

from beamclip.config.balance import BalanceConfig
from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.inputs import AnchorsConfig, DataConfig, ViewsConfig
from beamclip.config.load import load_experiment, parse_assignments, preset_names, with_values
from beamclip.config.needs import NEEDS, Needs
from beamclip.config.objective import ObjectiveConfig
from beamclip.config.objectives import ClipCidConfig, QueueConfig, SimclrConfig, SupervisedConfig, SwavConfig
from beamclip.config.probe import FEW_SHOT, GridConfig, ProbeConfig
from beamclip.config.prompts import PromptSet, built_in_prompt_sets
from beamclip.config.space import Choice, Uniform, choice, loguniform, uniform
from beamclip.config.student import OptimiserConfig, StudentConfig
from beamclip.config.sweep import Asha, Sweep, cell, check_space, planned_values, start_of, trial_count
from beamclip.config.towers import OtherTeacher, TeacherConfig, TowerConfig
from beamclip.config.tree import checked, flatten, known_keys
from beamclip.config.views import RECIPES, Recipe, Strict

__all__ = [
    "FEW_SHOT",
    "NEEDS",
    "RECIPES",
    "AnchorsConfig",
    "Asha",
    "BalanceConfig",
    "Choice",
    "ClipCidConfig",
    "DataConfig",
    "Experiment",
    "GridConfig",
    "Needs",
    "ObjectiveConfig",
    "OptimiserConfig",
    "OtherTeacher",
    "ProbeConfig",
    "PromptSet",
    "QueueConfig",
    "Recipe",
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
    "checked",
    "choice",
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
    "with_values",
]
