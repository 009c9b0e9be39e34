import os
import signal
import socket

import pytest
import yaml

from beamclip.config import UserError, load_experiment
from beamclip.distributed import cluster
from beamclip.distributed.cluster import (
    DRIVER_CPUS,
    concurrent_trials,
    connect,
    idle_gpus_warning,
    max_resources,
    worker_cpus,
    worker_resources,
)


def experiment(workers=1, cpus=1.0, gpus=0.0, most=None):
    scaling = {
        "workers": workers,
        "cpus_per_worker": cpus,
        "gpus_per_worker": gpus,
        "max_concurrent": most,
    }
    return load_experiment("demo", {"scaling": scaling, "optimizer.batch_size": 64 * workers})


@pytest.fixture
def holds(monkeypatch):
    return lambda *nodes: monkeypatch.setattr(cluster, "max_nodes", lambda: list(nodes))


def test_a_worker_leaves_a_share_of_its_cpus_for_drivers():
    assert worker_resources(experiment(2, cpus=1)) == pytest.approx({"CPU": 1 - DRIVER_CPUS})
    assert worker_resources(experiment(1, cpus=2, gpus=0.5))["GPU"] == 0.5
    assert worker_cpus(experiment(cpus=0.001)) == DRIVER_CPUS


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "have", "trials"),
    [
        (1, 1, 0, [{"CPU": 2}], 2),  # drivers take no CPU
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


def test_max_concurrent_limits_the_trials(holds):
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
            (
                "workers 3 × 1 CPU is more than the 2 CPU this cluster can ever have; "
                "lower scaling.workers or"
            ),
        ),
        (
            2,
            1,
            1,
            {"CPU": 8, "GPU": 1},
            (
                "workers 2 × 1 GPU is more than the 1 GPU this cluster can ever have; "
                "lower scaling.workers or"
            ),
        ),
        (1, 1, 1, {"CPU": 8}, "more than the 0 GPU"),
    ],
)
def test_more_workers_than_the_cluster_can_ever_hold_are_refused(
    holds, workers, cpus, gpus, have, says
):
    holds(have)
    with pytest.raises(UserError) as caught:
        concurrent_trials(experiment(workers, cpus, gpus))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "have", "says"),
    [
        (1, 12, 0, [{"CPU": 8}] * 2, "hold 0 workers of 12 CPU, but scaling.workers is 1"),
        (1, 1, 2, [{"CPU": 4, "GPU": 1}] * 4, "hold 0 workers of 1 CPU and 2 GPU"),
        (3, 5, 0, [{"CPU": 8}] * 2, "hold 2 workers of 5 CPU, but scaling.workers is 3"),
    ],
)
def test_workers_that_fit_only_on_all_nodes_together_are_refused(
    holds, workers, cpus, gpus, have, says
):
    """Ray would wait for such a node forever."""
    holds(*have)
    with pytest.raises(UserError, match="each worker must fit on one node") as caught:
        concurrent_trials(experiment(workers, cpus, gpus))
    assert says in str(caught.value)


def test_a_cluster_whose_gpus_are_not_used_gets_a_warning(holds):
    holds({"CPU": 8})
    assert idle_gpus_warning(experiment()) is None
    holds({"CPU": 8, "GPU": 2})
    assert idle_gpus_warning(experiment(gpus=0.5)) is None
    assert "the cluster has 2 GPUs, but scaling.gpus_per_worker is 0" in idle_gpus_warning(
        experiment()
    )


def test_on_kubernetes_eight_trials_run_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_BOOTSTRAP", tmp_path / "none.yaml")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert max_resources() is None
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


def test_planned_nodes_count(monkeypatch, tmp_path):
    plan = tmp_path / "bootstrap.yaml"
    plan.write_text(yaml.safe_dump(PLAN | {"max_workers": 8}))
    monkeypatch.setattr(cluster, "_BOOTSTRAP", plan)
    assert max_resources() == {
        "CPU": 4 + 8 * 8,
        "GPU": 8 * 2,
    }  # no small node: at most 8 workers run at once


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """`planned(config)`: a cluster started with this config; `max_nodes` then needs no Ray."""
    monkeypatch.setattr(cluster, "_BOOTSTRAP", tmp_path / "bootstrap.yaml")
    return lambda plan: (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(plan))


def test_no_more_nodes_are_counted_than_may_run_at_once(planned):
    gpu = {"max_workers": 2, "resources": {"CPU": 8, "GPU": 1}}
    kinds = {
        "head": {"resources": {"CPU": 1}},
        "cpu": {"max_workers": 2, "resources": {"CPU": 64}},
        "spot": gpu,
        "ondemand": gpu,
    }
    planned({"max_workers": 2, "head_node_type": "head", "available_node_types": kinds})
    assert max_resources() == {"CPU": 1 + 2 * 8, "GPU": 2}
    assert concurrent_trials(experiment(1, cpus=1, gpus=1)) == 2
    assert (
        concurrent_trials(experiment(1, cpus=1)) == 1 + 2 * 64
    )  # a sweep on CPUs gets the nodes that hold most workers
    with pytest.raises(
        UserError, match="4 × 1 GPU is more than the 2 GPU this cluster can ever have"
    ):
        concurrent_trials(experiment(4, cpus=1, gpus=1))


def test_workers_of_the_heads_type_count_and_empty_keys_are_ignored(
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
    assert max_resources() == {"CPU": 4, "GPU": 3}
    planned({"max_workers": None, "head_node_type": "head", "available_node_types": kinds})
    assert max_resources() == {"CPU": 8}


def test_an_address_that_does_not_answer_is_an_error_within_seconds(monkeypatch):
    with socket.socket() as closed:  # bound but not listening
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"the Ray cluster {address} doesn't answer"):
            connect()


def test_a_cluster_that_can_not_be_joined_is_an_error(monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("connection refused\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(
        UserError, match=r"the Ray cluster auto can't be joined \(connection refused\)"
    ):
        connect()


def test_a_local_cluster_that_can_not_start_is_an_error(monkeypatch):
    import ray

    def refuse(**options):
        raise PermissionError(13, "Permission denied", "/usr/bin/python3")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(
        UserError,
        match=r"Ray can't be started on this machine \(.*Permission denied.*\); "
        "see its logs in /tmp/ray",
    ):
        connect()


def test_connecting_keeps_the_sigterm_handler(monkeypatch):
    import ray

    calls = []
    monkeypatch.setattr(
        ray,
        "init",
        lambda **options: signal.signal(signal.SIGTERM, lambda *_: calls.append("Ray's")),
    )
    monkeypatch.setenv("RAY_ADDRESS", "local")
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append("ours"))
    try:
        connect()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == ["ours"]
