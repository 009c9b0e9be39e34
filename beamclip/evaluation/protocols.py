"""Fit the candidates of a linear-probe protocol on train and choose the best on val.

No function here takes test images, so no choice can depend on them.
"""

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
"""Hyperparameters of a probe by name, as written to `evaluation.json`."""


@dataclass(frozen=True)
class ProbeCandidate:
    """One combination of hyperparameters that was tried.

    Attributes:
        settings: the hyperparameters.
        val_top1: top-1 accuracy on val in percent, of the probe fitted on train alone.
    """

    settings: Settings
    val_top1: float


@dataclass(frozen=True)
class ProbeResult:
    """The chosen probe and the candidates it was chosen from.

    Attributes:
        probe: the probe fitted with the chosen settings.
        candidates: all candidates, the more strongly regularized first.
        chosen: index of the candidate with the highest val accuracy; of equal ones the first.
    """

    probe: Probe
    candidates: tuple[ProbeCandidate, ...]
    chosen: int

    @property
    def val_top1(self) -> float:
        """Return the val accuracy of the chosen candidate in percent."""
        return self.candidates[self.chosen].val_top1


class _Candidates(Protocol):
    """The probes that a protocol fitted on train."""

    candidates: tuple[ProbeCandidate, ...]

    def probe(self, index: int) -> Probe:
        """Return the probe of candidate number `index`, as fitted on train."""
        ...

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        """Fit a new probe on `data` with the settings of candidate number `index`."""
        ...


def select_probe(
    train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig, refit: bool = True
) -> ProbeResult:
    """Fit every candidate of the protocol on train and choose the best on val.

    Args:
        train: images to fit on.
        val: images to choose on.
        config: the protocol and its hyperparameters.
        refit: fit the chosen settings again, on train and val together. If False, return the probe
            fitted on train.

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
    """The `grid` protocol: every learning rate, weight decay and normalization, trained at once."""

    def __init__(self, train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig) -> None:
        grid = config.grid
        self._schedule = SgdSchedule(grid.epochs, grid.batch_size)
        # From strong to weak regularization, since of equally good candidates the first is chosen.
        decays = sorted(set(grid.weight_decay), reverse=True)
        lrs = sorted(set(grid.lr))
        self._settings = [ProbeSetting(lr, decay) for decay, lr in product(decays, lrs)]
        # dict.fromkeys drops repeated names and keeps their order, unlike a set.
        normalizations = dict.fromkeys(grid.normalization)
        self._unit_lengths = [name == "l2" for name in normalizations]
        self._fitted = fit_grid(
            train.features, train.labels, self._settings, self._unit_lengths, self._schedule
        )

        # Index of the setting and of the normalization ("group" in `FittedGrid`) per candidate.
        self._indices = list(product(range(len(self._settings)), range(len(self._unit_lengths))))
        top1 = self._fitted.top1(val.features, val.labels).tolist()
        candidates = []
        for setting, group in self._indices:
            candidates.append(ProbeCandidate(self._describe(setting, group), top1[group][setting]))
        self.candidates = tuple(candidates)

    def _describe(self, setting: int, group: int) -> Settings:
        # Written to evaluation.json, whose keys and values keep their original (British) spelling.
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
        # A grid of a single probe.
        fitted = fit_grid(data.features, data.labels, settings, unit_lengths, self._schedule)
        return fitted.probe(0, 0)


class _ClipCandidates:
    """The `clip` protocol (arXiv 2103.00020, A.3): L-BFGS for each C of `probe.inverse_l2`."""

    def __init__(self, train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig) -> None:
        self._max_iterations = config.max_iterations
        probes = sweep_inverse_l2(
            train.features, train.labels, config.inverse_l2, config.max_iterations
        )
        self._inverse_l2 = list(probes)
        self._probes = list(probes.values())
        candidates = []
        for inverse_l2, probe in probes.items():
            val_top1 = accuracy(probe.predict(val.features), val.labels)
            candidates.append(ProbeCandidate({"inverse_l2": inverse_l2}, val_top1))
        self.candidates = tuple(candidates)

    def probe(self, index: int) -> Probe:
        return self._probes[index]

    def refit(self, index: int, data: LabeledFeatures) -> Probe:
        probe = self._probes[index]
        # Start from the probe fitted on train, unless `data` has a class that it has no row for.
        has_same_classes = int(data.labels.max()) + 1 == len(probe.bias)
        init = probe if has_same_classes else None
        inverse_l2 = self._inverse_l2[index]
        return fit_probe(data.features, data.labels, inverse_l2, self._max_iterations, init)


class _PaperCandidate:
    """A paper's protocol: fixed settings, the only candidate. Val only measures its accuracy."""

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
