"""Trials, and the cells of a sweep: trials that differ in their seed alone."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from beamclip.tracking.serialize import run_name

SEED = "seed"


@dataclass(frozen=True)
class Row:
    """One run. `values`: the sweep's varied keys, as text. `seconds`: start to end, with any pause before a resume."""

    run_id: str
    name: str
    kind: str
    method: str
    status: str
    values: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    seconds: float | None


@dataclass(frozen=True)
class Cell:
    """Trials with the same settings, one a seed; where the sweep varies no seed, a single trial."""

    rows: tuple[Row, ...]

    @property
    def values(self) -> dict[str, str]:
        """The varied settings, without the seed."""
        return {key: value for key, value in self.rows[0].values.items() if key != SEED}

    @property
    def name(self) -> str:
        """What it is called: as its one trial, or by its settings."""
        seeded = SEED in self.rows[0].values
        return run_name(self.values) if seeded else self.rows[0].name

    @property
    def finished(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == "FINISHED")

    def numbers(self, key: str) -> tuple[float, ...]:
        """A metric of the finished trials, one a seed; of all trials while none is finished."""
        rows = self.finished or self.rows
        return tuple(
            row.metrics[key] for row in rows if math.isfinite(row.metrics.get(key, math.nan))
        )

    def mean(self, key: str) -> float | None:
        """Of `numbers`, None where there are none."""
        numbers = self.numbers(key)
        return fmean(numbers) if numbers else None

    def half_interval(self, key: str) -> float | None:
        """Half the 95 % interval of the mean over seeds, by Student's t; None with fewer than two seeds."""
        numbers = self.numbers(key)
        return half_interval(numbers) if len(numbers) > 1 else None


def half_interval(numbers: tuple[float, ...]) -> float:
    """t(0.975, n - 1) · s / √n, for two or more numbers that scatter as seeds do."""
    from scipy.stats import (
        t,
    )  # a second to import, which commands that print no table need not wait for

    return float(t.ppf(0.975, len(numbers) - 1)) * stdev(numbers) / math.sqrt(len(numbers))


def cells_of(trials: Iterable[Row], metric: str) -> tuple[Cell, ...]:
    """Trials grouped by everything but the seed, the highest mean of `metric` first, cells without it last."""
    groups: dict[object, list[Row]] = defaultdict(list)
    for row in trials:
        same = tuple(sorted((key, value) for key, value in row.values.items() if key != SEED))
        groups[same if SEED in row.values else id(row)].append(row)
    cells = [Cell(tuple(sorted(rows, key=_by_seed))) for rows in groups.values()]
    return tuple(sorted(cells, key=lambda cell: (-_or_least(cell.mean(metric)), cell.name)))


def _by_seed(row: Row) -> tuple[int, str]:
    seed = row.values.get(SEED, "")
    return len(seed), seed


def _or_least(mean: float | None) -> float:
    return -math.inf if mean is None else mean


def best_of(cells: Iterable[Cell], metric: str) -> Cell | None:
    """The cell with the highest mean of `metric` over its finished trials, among those of which the most seeds are finished.

    A cell of which seeds are missing is not chosen while another is whole: fewer seeds scatter more, and are lucky more often.
    """
    found = [cell for cell in cells if cell.finished and cell.numbers(metric)]
    most = max((len(cell.numbers(metric)) for cell in found), default=0)
    return next((cell for cell in found if len(cell.numbers(metric)) == most), None)
