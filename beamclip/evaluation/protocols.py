"""Which probe val chooses, by each protocol. Test is no argument of anything here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabelledFeatures
from beamclip.evaluation.grid_probe import GridCell, fit_grid
from beamclip.evaluation.linear_probe import Probe, check_fittable, fit_probe, sweep_inverse_l2
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.paper_probe import PAPER_PROTOCOLS, fit_paper

Settings = dict[str, float | str]


@dataclass(frozen=True)
class Cell:
    """One setting that was tried."""

    settings: Settings
    val_top1: float
    """Per cent, fitted on train alone."""


@dataclass(frozen=True)
class ProbeResult:
    """What val chose, out of what."""

    probe: Probe
    """With the chosen settings."""
    cells: tuple[Cell, ...]
    """Everything that was tried, the more strongly regularised first."""
    chosen: int
    """Which of the cells; the first of the best."""

    @property
    def val_top1(self) -> float:
        """Of the chosen cell, in per cent."""
        return self.cells[self.chosen].val_top1


@dataclass(frozen=True)
class _Tried:
    cells: tuple[Cell, ...]
    fitted: Callable[[int], Probe]
    """A cell's probe, fitted on train."""
    again: Callable[[int, LabelledFeatures], Probe]
    """The same settings on other images."""


def select_probe(
    train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig, refit: bool = True
) -> ProbeResult:
    """Try every cell of the protocol on train and keep the best on val.

    Args:
        refit: fit the chosen settings again, on train and val together.

    Raises:
        UserError: a feature is not finite, or train has one class only.
    """
    check_fittable(train.features, train.labels)
    try_all = {"grid": _grid, "clip": _clip}.get(config.protocol, _paper)
    tried = try_all(train, val, config)
    scores = [cell.val_top1 for cell in tried.cells]
    chosen = scores.index(max(scores))
    probe = tried.again(chosen, _joined(train, val)) if refit else tried.fitted(chosen)
    return ProbeResult(probe, tried.cells, chosen)


def _joined(train: LabelledFeatures, val: LabelledFeatures) -> LabelledFeatures:
    return LabelledFeatures(
        torch.cat([train.features, val.features]), None, torch.cat([train.labels, val.labels])
    )


def _grid(train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig) -> _Tried:
    grid = config.grid
    decays = sorted(set(grid.weight_decay), reverse=True)
    settings = [GridCell(lr, decay) for decay, lr in product(decays, sorted(set(grid.lr)))]
    units = [name == "l2" for name in dict.fromkeys(grid.normalisation)]
    fitted = fit_grid(train.features, train.labels, settings, units, grid.epochs, grid.batch_size)
    top1 = fitted.top1(val.features, val.labels).tolist()
    places = [(g, c) for c in range(len(settings)) for g in range(len(units))]
    cells = tuple(Cell(_named(settings[c], units[g]), top1[g][c]) for g, c in places)

    def again(cell: int, data: LabelledFeatures) -> Probe:
        group, place = places[cell]
        one = fit_grid(
            data.features,
            data.labels,
            [settings[place]],
            [units[group]],
            grid.epochs,
            grid.batch_size,
        )
        return one.probe(0, 0)

    return _Tried(cells, lambda cell: fitted.probe(*places[cell]), again)


def _named(cell: GridCell, unit: bool) -> Settings:
    return {
        "lr": cell.lr,
        "weight_decay": cell.weight_decay,
        "normalisation": "l2" if unit else "standardise",
    }


def _clip(train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig) -> _Tried:
    """CLIP's (arXiv 2103.00020, A.3), which also fits the chosen C again on train and val."""
    probes = sweep_inverse_l2(
        train.features, train.labels, config.inverse_l2, config.max_iterations
    )
    cells = tuple(
        Cell({"inverse_l2": c}, accuracy(probe.predict(val.features), val.labels))
        for c, probe in probes.items()
    )

    def again(cell: int, data: LabelledFeatures) -> Probe:
        c = list(probes)[cell]
        start = probes[c] if int(data.labels.max()) + 1 == len(probes[c].bias) else None
        return fit_probe(data.features, data.labels, c, config.max_iterations, start)

    return _Tried(cells, list(probes.values()).__getitem__, again)


def _paper(train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig) -> _Tried:
    """Fixed settings: one cell, so that val chooses nothing and only says how good it is."""
    protocol = PAPER_PROTOCOLS[config.protocol]
    probe = fit_paper(train.features, train.labels, protocol)
    cell = Cell(
        {"lr": protocol.lr, "weight_decay": protocol.weight_decay},
        accuracy(probe.predict(val.features), val.labels),
    )
    return _Tried(
        (cell,), lambda _: probe, lambda _, data: fit_paper(data.features, data.labels, protocol)
    )
