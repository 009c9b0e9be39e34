"""Evaluation: features once, then linear probe, weighted kNN and zero-shot, the same for every method.

Everything chosen is chosen on val, a held-out part of train. Test is looked at once, after the choice.
"""

from beamclip.evaluation.evaluate import Evaluation, choose, evaluate, report
from beamclip.evaluation.features import Features, LabelledFeatures, extract
from beamclip.evaluation.knn import knn_predict
from beamclip.evaluation.linear_probe import ProbeResult, fit_probe, select_probe
from beamclip.evaluation.metrics import accuracy, wilson_interval
from beamclip.evaluation.probe import Probe, load_probe, save_probe
from beamclip.evaluation.zero_shot import zero_shot_logits, zero_shot_predict

__all__ = [
    "Evaluation",
    "Features",
    "LabelledFeatures",
    "Probe",
    "ProbeResult",
    "accuracy",
    "choose",
    "evaluate",
    "extract",
    "fit_probe",
    "knn_predict",
    "load_probe",
    "report",
    "save_probe",
    "select_probe",
    "wilson_interval",
    "zero_shot_logits",
    "zero_shot_predict",
]
