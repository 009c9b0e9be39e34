import sys

import pytest
from ray.tune.registry import register_trainable
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.sample import Categorical, Float
from ray.tune.search.variant_generator import generate_variants

from beamclip.config import Asha, Sweep, UserError, choice, loguniform, uniform
from beamclip.distributed.tune import (
    EARLY_STOPPING_METRIC,
    TrialSlots,
    scheduler,
    search_algorithm,
    search_space,
)

GRID = Sweep(name="s", space={"a.b": choice(1, 2), "c.d": choice("x", "y")})


def sweep(**settings):
    return Sweep(
        name="s",
        **{
            "space": {"a": choice(1, 2), "b": uniform(0, 1), "c": loguniform(1e-4, 1)},
            "search": "random",
        }
        | settings,
    )


def test_a_grid_is_every_combination_once():
    variants = [values for _, values in generate_variants({"values": search_space(GRID)})]
    combinations = [(v["values"]["a.b"], v["values"]["c.d"]) for v in variants]
    assert sorted(combinations) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_a_random_search_draws_from_lists_and_ranges():
    space = search_space(sweep())
    assert isinstance(space["a"], Categorical)
    assert isinstance(space["b"], Float)
    samples = [space["c"].sample() for _ in range(200)]
    assert all(1e-4 <= value <= 1 for value in samples)
    assert (
        sum(value < 0.01 for value in samples) > 50
    )  # half of them, on a logarithm; two on a line


def test_the_same_seed_draws_the_same_trials(tmp_path):
    def draw(seed):
        register_trainable("nothing", lambda config: None)
        algorithm = search_algorithm(sweep(seed=seed), concurrent=4)
        spec = {
            "run": "nothing",
            "config": {"values": search_space(sweep())},
            "num_samples": 3,
            "storage_path": str(tmp_path),
        }
        algorithm.add_configurations({"s": spec})
        return [algorithm.next_trial().config["values"] for _ in range(3)]

    assert draw(0) == draw(0) != draw(1)


def test_grid_and_random_start_as_many_as_fit():
    algorithm = search_algorithm(GRID, concurrent=3)
    assert isinstance(algorithm, BasicVariantGenerator)
    assert algorithm.max_concurrent == 3


def test_optuna_maximizes_the_val_metric_and_learns_only_from_final_results():
    pytest.importorskip("optuna")
    algorithm = search_algorithm(sweep(search="optuna"), concurrent=2)
    assert isinstance(algorithm, ConcurrencyLimiter)
    assert (algorithm.searcher.metric, algorithm.searcher.mode) == ("linear_probe/val_top1", "max")
    algorithm.set_search_properties(None, None, {"values": search_space(sweep(search="optuna"))})
    values = algorithm.suggest("one")["values"]
    assert values["a"] in (1, 2)
    algorithm.on_trial_result(
        "one", {"zero_shot/val_top1": 5.0, "training_iteration": 1}
    )  # an epoch has no probe
    algorithm.on_trial_complete("one", {"linear_probe/val_top1": 30.0})
    assert algorithm.searcher._ot_study.best_value == 30.0


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "ray.tune.search.optuna.optuna_search", raising=False)
    monkeypatch.delitem(sys.modules, "ray.tune.search.optuna", raising=False)
    with pytest.raises(UserError, match=r'pip install "beamclip\[optuna\]"'):
        search_algorithm(sweep(search="optuna"), concurrent=2)


def test_asha_compares_val_once_per_epoch_and_never_test():
    asha = scheduler(sweep(asha=Asha(grace_epochs=2, reduction_factor=4)), epochs=10)
    assert isinstance(asha, ASHAScheduler)
    assert (asha._time_attr, asha.metric, asha._reduction_factor) == (
        "epoch",
        EARLY_STOPPING_METRIC,
        4,
    )
    assert "val" in EARLY_STOPPING_METRIC
    assert asha._max_t > 10  # the last epoch is not cut off before its evaluation
    assert [rung[0] for rung in asha._brackets[0]._rungs] == [8, 2]


def test_a_grace_period_longer_than_the_training_stops_nothing():
    asha = scheduler(sweep(asha=Asha(grace_epochs=50)), epochs=10)
    assert [rung[0] for rung in asha._brackets[0]._rungs if rung[0] <= 10] == []


def test_without_asha_every_trial_runs_to_its_end():
    assert isinstance(scheduler(GRID, epochs=10), FIFOScheduler)


def test_trials_keep_their_slots_until_they_end():
    slots = TrialSlots(2)
    assert [slots.try_acquire(name) for name in "abca"] == [True, True, False, True]
    slots.release("b")
    assert [slots.try_acquire(name) for name in "cb"] == [True, False]
    slots.release("never began")
    slots.release("a")
    assert slots.try_acquire("b")
