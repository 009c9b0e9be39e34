"""From a declared sweep to Ray Tune: space, search and early stopping."""

from typing import Any

import ray.tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from beamclip.config import Choice, Sweep, Uniform, UserError, planned_values

EARLY_METRIC = "zero_shot/val_top1"  # the one val metric every epoch reports


def search_space(sweep: Sweep) -> Any:
    """Tune's form of the space. A grid is a list of cells, so that trials start in the order in which they are listed."""
    if sweep.search == "grid":
        return ray.tune.grid_search(planned_values(sweep))
    return {key: _dimension(dimension) for key, dimension in sweep.space.items()}


def _dimension(dimension: Choice | Uniform) -> Any:
    if isinstance(dimension, Choice):
        return ray.tune.choice(list(dimension.values))
    return (ray.tune.loguniform if dimension.log else ray.tune.uniform)(dimension.low, dimension.high)


def search_algorithm(sweep: Sweep, concurrent: int) -> SearchAlgorithm | Searcher:
    """Grid and random by Tune itself; Optuna's TPE where asked for.

    Raises:
        UserError: Optuna is not installed.
    """
    if sweep.search != "optuna":
        return BasicVariantGenerator(max_concurrent=concurrent, random_state=sweep.seed)
    return ConcurrencyLimiter(_optuna(sweep), max_concurrent=concurrent)


def _optuna(sweep: Sweep) -> Searcher:
    from ray.tune.search.optuna import OptunaSearch

    class AtTheEnd(OptunaSearch):  # type: ignore[misc]
        """Learns from a trial's last report alone: epochs before it have no `sweep.metric`, and Ray's own would raise KeyError."""

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            return None

    try:
        return AtTheEnd(metric=sweep.metric, mode="max", seed=sweep.seed)
    except (ImportError, AssertionError):
        raise UserError('search is optuna, which is not installed; run pip install "beamclip[optuna]"') from None


def scheduler(sweep: Sweep, epochs: int) -> TrialScheduler:
    """ASHA on the val metric of each epoch, or none."""
    if sweep.asha is None:
        return FIFOScheduler()
    asha = sweep.asha
    return ASHAScheduler(
        time_attr="epoch", metric=EARLY_METRIC, mode="max", max_t=epochs + 1,
        grace_period=min(asha.grace_epochs, epochs + 1), reduction_factor=asha.reduction_factor,
    )  # fmt: skip
