import pytest
import yaml

from beamclip.config import UserError, load_experiment
from beamclip.distributed import cluster
from beamclip.distributed.cluster import (
    DRIVER_CPUS,
    concurrent_trials,
    idle_gpus,
    most_resources,
    needs,
    worker_cpus,
)


def experiment(workers=1, cpus=1.0, gpus=0.0, most=None):
    scaling = {
        "workers": workers,
        "cpus_per_worker": cpus,
        "gpus_per_worker": gpus,
        "max_concurrent": most,
    }
    return load_experiment("demo", {"scaling": scaling, "optimiser.batch_size": 64 * workers})


@pytest.fixture
def holds(monkeypatch):
    return lambda *nodes: monkeypatch.setattr(cluster, "most_nodes", lambda: list(nodes))


def test_a_worker_leaves_a_sliver_for_drivers():
    assert needs(experiment(2, cpus=1)) == pytest.approx({"CPU": 1 - DRIVER_CPUS})
    assert needs(experiment(1, cpus=2, gpus=0.5))["GPU"] == 0.5
    assert worker_cpus(experiment(cpus=0.001)) == DRIVER_CPUS


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "have", "trials"),
    [
        (1, 1, 0, [{"CPU": 2}], 2),  # the drivers' slivers fit beside the workers
        (2, 1, 0, [{"CPU": 2}], 1),
        (2, 0.5, 0, [{"CPU": 2}], 2),
        (2, 1, 0, [{"CPU": 7}], 3),
        (2, 1, 0, [{"CPU": 1}] * 7, 3),
        (1, 4, 1, [{"CPU": 64, "GPU": 8}], 8),
        (1, 4, 1, [{"CPU": 8, "GPU": 1}] * 8, 8),
        (1, 4, 0.25, [{"CPU": 64, "GPU": 2}], 8),
        (8, 4, 1, [{"CPU": 64, "GPU": 8}], 1),
        (1, 16, 1, [{"CPU": 32, "GPU": 8}], 2),  # CPUs run out before GPUs do
        (1, 5, 0, [{"CPU": 8}, {"CPU": 8}], 2),  # and not 3, as 16 CPUs of one node would hold
        (1, 1, 0, [{"CPU": 0}, {"CPU": 2}, {}], 2),
    ],
)
def test_as_many_trials_at_once_as_the_nodes_hold(holds, workers, cpus, gpus, have, trials):
    holds(*have)
    assert concurrent_trials(experiment(workers, cpus, gpus)) == trials


def test_fewer_are_run_at_once_where_that_was_asked_for(holds):
    holds({"CPU": 64})
    assert concurrent_trials(experiment(most=3)) == 3
    assert concurrent_trials(experiment(32, most=3)) == 2


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "have", "says"),
    [
        (
            3,
            1,
            0,
            {"CPU": 2},
            "workers 3 × 1 CPU is more than the 2 CPU this cluster can ever give; lower scaling.workers or",
        ),
        (
            2,
            1,
            1,
            {"CPU": 8, "GPU": 1},
            "workers 2 × 1 GPU is more than the 1 GPU this cluster can ever give; lower scaling.workers or",
        ),
        (1, 1, 1, {"CPU": 8}, "more than the 0 GPU"),
    ],
)
def test_more_than_the_cluster_can_ever_give_is_a_sentence(holds, workers, cpus, gpus, have, says):
    holds(have)
    with pytest.raises(UserError) as caught:
        concurrent_trials(experiment(workers, cpus, gpus))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "have", "says"),
    [
        (1, 12, 0, [{"CPU": 8}] * 2, "hold 0 workers of 12 CPU, where scaling.workers is 1"),
        (1, 1, 2, [{"CPU": 4, "GPU": 1}] * 4, "hold 0 workers of 1 CPU and 2 GPU"),
        (3, 5, 0, [{"CPU": 8}] * 2, "hold 2 workers of 5 CPU, where scaling.workers is 3"),
    ],
)
def test_what_no_node_can_hold_is_a_sentence_where_all_of_them_together_could(
    holds, workers, cpus, gpus, have, says
):
    """Or Ray would wait for such a node for ever."""
    holds(*have)
    with pytest.raises(UserError, match="a worker has to be on one node") as caught:
        concurrent_trials(experiment(workers, cpus, gpus))
    assert says in str(caught.value)


def test_gpus_that_nobody_asked_for_are_told_of(holds):
    holds({"CPU": 8})
    assert idle_gpus(experiment()) is None
    holds({"CPU": 8, "GPU": 2})
    assert idle_gpus(experiment(gpus=0.5)) is None
    assert "2 GPUs are here, but scaling.gpus_per_worker is 0" in idle_gpus(experiment())


def test_where_nobody_knows_what_may_come_a_few_are_tried(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_BOOTSTRAP", tmp_path / "none.yaml")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert most_resources() is None
    assert concurrent_trials(experiment(1000)) == 8
    assert concurrent_trials(experiment(1000, most=2)) == 2


PLAN = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 2}, "max_workers": 3},
        "large": {"resources": {"CPU": 8, "GPU": 2}},
    },
}


def test_nodes_that_have_not_started_count_too(monkeypatch, tmp_path):
    plan = tmp_path / "bootstrap.yaml"
    plan.write_text(yaml.safe_dump(PLAN | {"max_workers": 8}))
    monkeypatch.setattr(cluster, "_BOOTSTRAP", plan)
    assert most_resources() == {
        "CPU": 4 + 8 * 8,
        "GPU": 8 * 2,
    }  # and no small one beside them: 8 may be there at once


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """`planned(plan)`: a cluster that was started with this plan, whose `most_nodes` asks no Ray."""
    monkeypatch.setattr(cluster, "_BOOTSTRAP", tmp_path / "bootstrap.yaml")
    return lambda plan: (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(plan))


def test_no_more_nodes_are_counted_than_the_plan_lets_be_there_at_once(planned):
    gpu = {"max_workers": 2, "resources": {"CPU": 8, "GPU": 1}}
    kinds = {
        "head": {"resources": {"CPU": 1}},
        "cpu": {"max_workers": 2, "resources": {"CPU": 64}},
        "spot": gpu,
        "ondemand": gpu,
    }
    planned({"max_workers": 2, "head_node_type": "head", "available_node_types": kinds})
    assert most_resources() == {"CPU": 1 + 2 * 8, "GPU": 2}
    assert concurrent_trials(experiment(1, cpus=1, gpus=1)) == 2
    assert (
        concurrent_trials(experiment(1, cpus=1)) == 1 + 2 * 64
    )  # a sweep on CPUs gets the nodes that hold most of its workers
    with pytest.raises(
        UserError, match="4 × 1 GPU is more than the 2 GPU this cluster can ever give"
    ):
        concurrent_trials(experiment(4, cpus=1, gpus=1))


def test_a_head_s_kind_may_have_workers_too_and_what_is_left_empty_is_as_if_it_was_not_there(
    planned,
):
    head, empty = (
        {"max_workers": 1, "resources": {"CPU": 4}},
        {"resources": None, "max_workers": None},
    )
    kinds = {
        "gpu": {"max_workers": None, "resources": {"GPU": 1}},
        "empty": empty,
        "nothing": None,
        "head": head,
    }
    planned({"max_workers": 3, "head_node_type": "head", "available_node_types": kinds})
    assert most_resources() == {"CPU": 4, "GPU": 3}
    planned({"max_workers": None, "head_node_type": "head", "available_node_types": kinds})
    assert most_resources() == {"CPU": 8}
