"""Evaluate frozen features: linear probe, weighted k-NN, zero-shot and few-shot.

Features are extracted once and shared by all of them. Every method is evaluated in the same way:
hyperparameters are chosen on val, a held-out part of train, and test is used once, after that.
"""

from beamclip.evaluation.evaluate import Evaluation, evaluate, save_evaluation, select_k
from beamclip.evaluation.features import Features, LabeledFeatures, extract
from beamclip.evaluation.few_shot import FewShotResult, evaluate_few_shot
from beamclip.evaluation.grid_probe import ProbeSetting, SgdSchedule, fit_grid
from beamclip.evaluation.knn import check_k, knn_predict
from beamclip.evaluation.linear_probe import Probe, fit_probe, load_probe, save_probe
from beamclip.evaluation.metrics import (
    accuracy,
    confusions,
    expected_calibration_error,
    wilson_interval,
)
from beamclip.evaluation.paper_probe import PAPER_PROTOCOLS, fit_paper
from beamclip.evaluation.protocols import ProbeCandidate, ProbeResult, select_probe
from beamclip.evaluation.report import ClassificationReport, classification_report
from beamclip.evaluation.zero_shot import zero_shot_logits, zero_shot_predict

__all__ = [
    "PAPER_PROTOCOLS",
    "ClassificationReport",
    "Evaluation",
    "Features",
    "FewShotResult",
    "LabeledFeatures",
    "Probe",
    "ProbeCandidate",
    "ProbeResult",
    "ProbeSetting",
    "SgdSchedule",
    "accuracy",
    "check_k",
    "classification_report",
    "confusions",
    "evaluate",
    "evaluate_few_shot",
    "expected_calibration_error",
    "extract",
    "fit_grid",
    "fit_paper",
    "fit_probe",
    "knn_predict",
    "load_probe",
    "save_evaluation",
    "save_probe",
    "select_k",
    "select_probe",
    "wilson_interval",
    "zero_shot_logits",
    "zero_shot_predict",
]
