"""Evaluation: features once, then linear probe, weighted kNN and zero-shot, the same for every method.

Everything chosen is chosen on val, a held-out part of train. Test is looked at once, after the choice.
"""

from beamclip.evaluation.evaluate import Evaluation, choose, choose_k, evaluate, save_evaluation
from beamclip.evaluation.features import Features, LabelledFeatures, extract
from beamclip.evaluation.few_shot import FewShot, few_shot
from beamclip.evaluation.grid_probe import GridCell, fit_grid
from beamclip.evaluation.knn import check_k, knn_predict
from beamclip.evaluation.linear_probe import Probe, fit_probe, load_probe, save_probe
from beamclip.evaluation.metrics import (
    accuracy,
    confusions,
    expected_calibration_error,
    wilson_interval,
)
from beamclip.evaluation.paper_probe import PAPER_PROTOCOLS, fit_paper
from beamclip.evaluation.protocols import Cell, ProbeResult, select_probe
from beamclip.evaluation.report import report
from beamclip.evaluation.zero_shot import zero_shot_logits, zero_shot_predict

__all__ = [
    "PAPER_PROTOCOLS",
    "Cell",
    "Evaluation",
    "Features",
    "FewShot",
    "GridCell",
    "LabelledFeatures",
    "Probe",
    "ProbeResult",
    "accuracy",
    "check_k",
    "choose",
    "choose_k",
    "confusions",
    "evaluate",
    "expected_calibration_error",
    "extract",
    "few_shot",
    "fit_grid",
    "fit_paper",
    "fit_probe",
    "knn_predict",
    "load_probe",
    "report",
    "save_evaluation",
    "save_probe",
    "select_probe",
    "wilson_interval",
    "zero_shot_logits",
    "zero_shot_predict",
]
