import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

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


@pytest.fixture
def listen():
    """`listen(reply)`: the port of a server that sends `reply` to all; None: it never answers."""
    servers = []

    def start(reply):
        # At all addresses, because Ray replaces 127.0.0.1 by another one of this machine.
        server = socket.create_server(("", 0))
        servers.append(server)
        if reply is not None:
            threading.Thread(target=answer, args=(server, reply), daemon=True).start()
        return server.getsockname()[1]

    def answer(server, reply):
        # `accept` raises once the server is closed.
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(reply)

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ray_folder(monkeypatch, tmp_path):
    """Ray's folder, empty; Ray must not be started."""
    import ray

    def never(**options):
        raise AssertionError("Ray would be started or joined")

    monkeypatch.setattr(ray, "init", never)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Short enough for the paths of sockets.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        folder = Path(short, "ray")
        folder.mkdir()
        yield folder


@pytest.fixture
def closed_port():
    with socket.socket() as closed:  # bound but not listening
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


def refusal():
    with pytest.raises(UserError) as caught:
        connect()
    return str(caught.value)


def test_an_address_that_does_not_answer_is_an_error_within_seconds(monkeypatch, closed_port):
    address = f"127.0.0.1:{closed_port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert refusal() == (
        f"the Ray cluster {address} doesn't answer (Connection refused); "
        "fix or unset RAY_ADDRESS, or set RAY_ADDRESS=local to start a cluster here"
    )


@pytest.mark.parametrize("scheme", ["ray", "redis", "http"])
def test_a_password_in_the_address_is_not_shown(monkeypatch, closed_port, scheme):
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}://user:secret@127.0.0.1:{closed_port}")
    says = refusal()
    assert f"{scheme}://…@127.0.0.1:{closed_port}" in says
    assert "secret" not in says


@pytest.mark.parametrize("address", ["ray://head", "ray://head:", "ray://head:10001?a=b"])
def test_an_address_of_ray_client_needs_a_port(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert refusal() == f"RAY_ADDRESS {address} should end in a port; write ray://HOST:10001"


@pytest.mark.parametrize("address", ["", "auto"])
def test_the_address_of_a_cluster_that_has_ended_is_an_error_within_seconds(
    monkeypatch, ray_folder, closed_port, address
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    # With `auto`, Ray joins a cluster of another process on this machine, such as another test's.
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    (ray_folder / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}")
    says = refusal()
    assert f":{closed_port} that {ray_folder}/ray_current_cluster names doesn't answer" in says
    assert says.endswith(
        "if it has ended, run `ray stop` to remove what it left behind, "
        "or set RAY_ADDRESS=local to start a cluster here"
    )


@pytest.mark.parametrize("reply", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@pytest.mark.parametrize("how", ["", "ray://", "file"])
def test_a_port_where_something_else_listens_is_an_error_within_seconds(
    monkeypatch, ray_folder, listen, how, reply
):
    monkeypatch.setattr(cluster, "_ANSWER_TIMEOUT_SECONDS", 1)
    address = f"127.0.0.1:{listen(reply)}"
    if how == "file":
        (ray_folder / "ray_current_cluster").write_text(address)
    else:
        monkeypatch.setenv("RAY_ADDRESS", how + address)
    start = time.monotonic()
    says = refusal()
    assert time.monotonic() - start < 30
    assert "doesn't answer (something else listens there, or it hangs); " in says
    assert "RAY_ADDRESS=local" in says


def test_another_service_of_grpc_is_no_cluster(monkeypatch, ray_folder):
    """Such as the port of Ray Client, 10001, without ray:// in front."""
    import grpc

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert f"another service is there; for Ray Client, write ray://127.0.0.1:{port})" in (
            refusal()
        )
    finally:
        server.stop(None)


def test_a_cluster_with_a_token_is_named_within_seconds(monkeypatch, ray_folder):
    import grpc

    class WithToken(grpc.GenericRpcHandler):
        def service(self, details):
            def refuse(request, context):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[WithToken()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert refusal().startswith(
            f"the Ray cluster 127.0.0.1:{port} takes only commands with its token; set "
            "RAY_AUTH_MODE=token, and copy ~/.ray/auth_token"
        )
    finally:
        server.stop(None)


def test_a_file_without_an_address_and_a_dashboards_address_are_errors(monkeypatch, ray_folder):
    (ray_folder / "ray_current_cluster").write_text("")
    says = refusal()
    assert says.startswith(f"{ray_folder}/ray_current_cluster should hold the address of this mach")
    assert "delete it, or set RAY_ADDRESS=local" in says
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert "is a dashboard, to which `ray job submit` sends jobs" in refusal()


@pytest.mark.parametrize("folder", ["", "here", "~/here"])
def test_a_relative_folder_is_an_error(monkeypatch, ray_folder, folder):
    monkeypatch.setenv("RAY_TMPDIR", folder)
    assert re.fullmatch(
        r"Ray's folder \S*ray is not an absolute path; "
        r"set RAY_TMPDIR to one, for example RAY_TMPDIR=/tmp/ray-\d+",
        refusal(),
    )


def test_a_folder_too_long_for_sockets_is_an_error_that_names_the_variable(monkeypatch, ray_folder):
    monkeypatch.delenv("RAY_TMPDIR")
    # Room for "/ray/session_…_PID/sockets/plasma_store".
    rest = len("/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store") + len(
        str(os.getpid())
    )
    monkeypatch.setattr(cluster, "_SOCKET_PATH_BYTES", 107)
    fits = "/" + "x" * (107 - rest - 1)
    monkeypatch.setenv("TMPDIR", fits + "x")
    assert refusal() == (
        f"the path of Ray's folder {fits}x/ray is 1 bytes too long for sockets; "
        "set RAY_TMPDIR to a shorter one, for example RAY_TMPDIR=/tmp/r"
    )
    monkeypatch.setenv("TMPDIR", fits)
    cluster._check_temp_folder()


def test_a_folder_that_can_not_be_written_is_an_error_that_names_the_variable(
    monkeypatch, ray_folder
):
    ray_folder.rmdir()
    ray_folder.write_text("another user's")
    says = refusal()
    assert f"Ray can't write into its folder {ray_folder} (Not a directory)" in says
    assert "set RAY_TMPDIR to a folder of your own, for example RAY_TMPDIR=/tmp/ray-" in says


@pytest.mark.parametrize(
    ("error", "home"),
    [
        (PermissionError(13, "Permission denied", "/.ray"), "/"),
        (NotADirectoryError(20, "Not a directory", "/nowhere/.ray/auth_token"), "/nowhere"),
        (RuntimeError("Could not determine home directory."), None),
    ],
)
def test_a_home_that_can_not_be_written_is_an_error_that_names_it(
    monkeypatch, ray_folder, error, home
):
    import ray

    def refuse(**options):
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
    says = refusal()
    assert says.startswith(f"Ray can't keep its token under HOME, which is {home or 'not set'} (")
    assert says.endswith("; set HOME to a folder that you can write to")


def test_rays_warning_of_many_small_processes_is_not_shown():
    """Ray reads the setting when it is imported, and other modules than `cluster` import it too."""
    code = (
        "import beamclip.distributed.prepare_actor\n"
        "from ray._private.worker import print_to_stdstream\n"
        "lines = ['WARNING: 8 PYTHON worker processes have been started on node: 1', 'other']\n"
        "data = {'lines': lines, 'pid': 'raylet', 'is_err': False}\n"
        "print_to_stdstream(data, ignore_prefix=False)\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "RAY_DEDUP_LOGS_SKIP_REGEX"
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "other" in result.stdout and "worker processes" not in result.stdout


def test_a_cluster_that_can_not_be_joined_is_an_error(monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("connection refused\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    # Another test may have a cluster on this machine, which would be found.
    monkeypatch.setattr(cluster, "_check_answers", lambda: None)
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
        "see its logs in .*/ray/session_latest/logs",
    ):
        connect()


def test_a_machine_on_which_ray_starts_too_slowly_is_an_error(monkeypatch, ray_folder):
    import ray

    def refuse(**options):
        raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr(ray, "init", refuse)
    assert "Ray can't be started on this machine (The current node timed out" in refusal()


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
