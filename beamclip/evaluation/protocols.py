"""Choose the linear probe on val, by each protocol. Nothing here takes test as an argument."""

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabeledFeatures
from beamclip.evaluation.grid_probe import ProbeSetting, SgdSchedule, fit_grid
from beamclip.evaluation.linear_probe import Probe, check_fittable, fit_probe, sweep_inverse_l2
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.paper_probe import PAPER_PROTOCOLS, fit_paper

Settings = dict[str, float | str]


@dataclass(frozen=True)
class ProbeCandidate:
    """One setting that was tried.

    Attributes:
        settings: name -> value.
        val_top1: accuracy on val in percent, fitted on train alone.
    """

    settings: Settings
    val_top1: float


@dataclass(frozen=True)
class ProbeResult:
    """The probe that val chose, and the candidates it was chosen from.

    Attributes:
        probe: fitted with the chosen settings.
        candidates: all that were tried, the more strongly regularized first.
        chosen: index of the chosen candidate, the first of the best.
    """

    probe: Probe
    candidates: tuple[ProbeCandidate, ...]
    chosen: int

    @property
    def val_top1(self) -> float:
        """Return the val accuracy of the chosen candidate in percent."""
        return self.candidates[self.chosen].val_top1


class _Candidates(Protocol):
    """Probes that a protocol fitted on train."""

    candidates: tuple[ProbeCandidate, ...]

    def probe(self, index: int) -> Probe:
        """Return a candidate's probe as fitted on train."""
        ...

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        """Fit a candidate's settings on other images."""
        ...


def select_probe(
    train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig, refit: bool = True
) -> ProbeResult:
    """Fit every candidate of the protocol on train and choose the best on val.

    Args:
        train: images to fit on.
        val: images to choose on.
        config: protocol and its settings.
        refit: fit the chosen settings again, on train and val together.

    Raises:
        UserError: a feature is not finite, or train has one class only.
    """
    check_fittable(train.features, train.labels)
    fitted = _fit_candidates(train, val, config)
    scores = [candidate.val_top1 for candidate in fitted.candidates]
    chosen = scores.index(max(scores))
    probe = fitted.refit(chosen, _concatenate(train, val)) if refit else fitted.probe(chosen)
    return ProbeResult(probe, fitted.candidates, chosen)


def _fit_candidates(
    train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig
) -> _Candidates:
    if config.protocol == "grid":
        return _GridCandidates(train, val, config)
    if config.protocol == "clip":
        return _ClipCandidates(train, val, config)
    return _PaperCandidate(train, val, config)


def _concatenate(train: LabeledFeatures, val: LabeledFeatures) -> LabeledFeatures:
    features = torch.cat([train.features, val.features])
    return LabeledFeatures(features, None, torch.cat([train.labels, val.labels]))


class _GridCandidates:
    """Every combination of learning rate, weight decay and normalization, trained at once."""

    def __init__(self, train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig) -> None:
        grid = config.grid
        self._schedule = SgdSchedule(grid.epochs, grid.batch_size)
        decays = sorted(set(grid.weight_decay), reverse=True)
        lrs = sorted(set(grid.lr))
        self._settings = [ProbeSetting(lr, decay) for decay, lr in product(decays, lrs)]
        self._unit_lengths = [name == "l2" for name in dict.fromkeys(grid.normalization)]
        self._fitted = fit_grid(
            train.features, train.labels, self._settings, self._unit_lengths, self._schedule
        )
        # Indices of setting and normalization of each candidate.
        self._indices = list(product(range(len(self._settings)), range(len(self._unit_lengths))))
        top1 = self._fitted.top1(val.features, val.labels).tolist()
        self.candidates = tuple(
            ProbeCandidate(self._describe(setting, group), top1[group][setting])
            for setting, group in self._indices
        )

    def _describe(self, setting: int, group: int) -> Settings:
        # These names and values are written to evaluation.json and keep their first spelling.
        return {
            "lr": self._settings[setting].lr,
            "weight_decay": self._settings[setting].weight_decay,
            "normalisation": "l2" if self._unit_lengths[group] else "standardise",
        }

    def probe(self, index: int) -> Probe:
        setting, group = self._indices[index]
        return self._fitted.probe(group, setting)

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        setting, group = self._indices[index]
        settings = [self._settings[setting]]
        unit_lengths = [self._unit_lengths[group]]
        fitted = fit_grid(data.features, data.labels, settings, unit_lengths, self._schedule)
        return fitted.probe(0, 0)


class _ClipCandidates:
    """CLIP's protocol (arXiv 2103.00020, A.3), which also refits the chosen C on train and val."""

    def __init__(self, train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig) -> None:
        self._max_iterations = config.max_iterations
        probes = sweep_inverse_l2(
            train.features, train.labels, config.inverse_l2, config.max_iterations
        )
        self._inverse_l2 = list(probes)
        self._probes = list(probes.values())
        self.candidates = tuple(
            ProbeCandidate(
                {"inverse_l2": inverse_l2}, accuracy(probe.predict(val.features), val.labels)
            )
            for inverse_l2, probe in probes.items()
        )

    def probe(self, index: int) -> Probe:
        return self._probes[index]

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        probe = self._probes[index]
        # A class that only val has makes the probe on train too small to start from.
        same_classes = int(data.labels.max()) + 1 == len(probe.bias)
        start = probe if same_classes else None
        inverse_l2 = self._inverse_l2[index]
        return fit_probe(data.features, data.labels, inverse_l2, self._max_iterations, start)


class _PaperCandidate:
    """A paper's fixed settings: val chooses nothing and only tells how good they are."""

    def __init__(self, train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig) -> None:
        self._protocol = PAPER_PROTOCOLS[config.protocol]
        self._probe = fit_paper(train.features, train.labels, self._protocol)
        settings: Settings = {
            "lr": self._protocol.lr,
            "weight_decay": self._protocol.weight_decay,
        }
        val_top1 = accuracy(self._probe.predict(val.features), val.labels)
        self.candidates: tuple[ProbeCandidate, ...] = (ProbeCandidate(settings, val_top1),)

    def probe(self, index: int) -> Probe:
        return self._probe

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        return fit_paper(data.features, data.labels, self._protocol)
