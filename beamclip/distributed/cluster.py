"""Join or start the Ray cluster, and work out what it can hold.

`connect` joins the cluster of $RAY_ADDRESS or of this machine, or starts a local one.
`concurrent_trials` says how many trials fit, counting nodes that an autoscaler has yet to start.
"""

import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Experiment, UserError, first_line
from beamclip.config.provenance import without_passwords

Resources = dict[str, float]
"""Resources of one node, or of several together, under Ray's names (CPU, GPU, ...)."""

DRIVER_CPUS = 0.01
"""CPU share each worker leaves free for a trial driver.

Trial drivers of sweeps that an earlier version started ask for this share when they are restored.
Drivers of this version ask for no CPU."""

# A local cluster's only node is this machine, which can't be preempted.
_LOCAL_SETTINGS = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_CONNECT_TIMEOUT_SECONDS = 5
# A busy head node may take some seconds for its first answer.
_ANSWER_TIMEOUT_SECONDS = 10
# The longest path that a Unix socket may have.
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
# Trials that run at once if the size of the cluster can't be known.
_DEFAULT_CONCURRENT_TRIALS = 8
# `ray up` leaves the cluster's config on the head node.
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


def connect() -> bool:
    """Join the cluster of $RAY_ADDRESS or of this machine, or start a local one, without output.

    Returns:
        True if the cluster existed before.

    Raises:
        UserError: the cluster doesn't answer, or a local one can't be started.
    """
    existing = _cluster_exists()
    if not existing:
        for name, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(name, value)
    import ray

    # Train's placement group cleaner queries the dashboard. Without it, a stopped trial would keep
    # its resources.
    options = {} if existing else {"include_dashboard": True}
    if not ray.is_initialized():
        if existing:
            _check_answers()
        else:
            _check_temp_folder()
        try:
            with _keep_sigterm_handler():
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    **options,
                )
        # A node that starts too slowly is a bare Exception of Ray's.
        except Exception as error:
            raise UserError(_why_not_connected(error, existing)) from None
    for name in ("ray.train", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return existing


def disconnect() -> None:
    """Leave the cluster; a local one that `connect` started is shut down."""
    import ray

    ray.shutdown()


def starts_locally() -> bool:
    """Return True if `connect` will start a cluster on this machine, False if it joins one."""
    if _cluster_exists():
        return False
    import ray

    # A notebook may have joined a cluster already.
    return not ray.is_initialized()


def _cluster_exists() -> bool:
    address = os.environ.get("RAY_ADDRESS", "")
    # "local" makes ray.init() start a new cluster on this machine.
    if address == "local":
        return False
    if address:
        return True
    return _noted_address() is not None


def _noted_address() -> str | None:
    """Return the address that `ray start` left on this machine, None if there is none.

    Raises:
        UserError: its file holds something else.
    """
    from ray._private import services

    # Look for an address in the same place as ray.init(). A search for running processes of Ray
    # would also find other users' local clusters.
    try:
        noted = services.find_bootstrap_address(None)
        return None if noted is None else str(services.canonicalize_bootstrap_address(noted))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_address_file()} should hold the address of this machine's Ray cluster "
            f"({first_line(error)}); delete it, or set RAY_ADDRESS=local to start a cluster here"
        ) from None


def _address_file() -> Path:
    return _temp_folder() / "ray_current_cluster"


def _check_answers() -> None:
    """Raise UserError within seconds if no Ray cluster answers at the address that Ray would join.

    Ray itself would retry for 15 minutes.
    """
    address = os.environ.get("RAY_ADDRESS") or _noted_address() or ""
    if address == "auto":
        from ray._private import services

        try:
            address = services.canonicalize_bootstrap_address("auto")
        except (OSError, ValueError):
            # There is no cluster, and ray.init() says so.
            return
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS {without_passwords(address)} is a dashboard, to which `ray job submit` "
            "sends jobs; a sweep that starts here needs HOST:6379 of the head node, or no "
            "RAY_ADDRESS"
        )
    # Other addresses without a port are left to Ray, which refuses them at once.
    target = address.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if not port.isdigit():
        if address.startswith("ray://"):
            # Ray would try for 30 s.
            raise UserError(
                f"RAY_ADDRESS {without_passwords(address)} should end in a port; "
                "write ray://HOST:10001"
            )
        return
    try:
        # Brackets enclose an IPv6 address.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_no_cluster(address)} doesn't answer ({reason}); {_remedy()}") from None
    if reason := _why_no_cluster(target, client=address.startswith("ray://")):
        raise UserError(f"{_no_cluster(address)} doesn't answer ({reason}); {_remedy()}")


def _finds_address() -> bool:
    """Return True if the address is that which `ray start` left on this machine."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "auto")


def _no_cluster(address: str) -> str:
    if _finds_address():
        return f"the Ray cluster {address} that {_address_file()} names"
    return f"the Ray cluster {without_passwords(address)}"


def _remedy() -> str:
    if _finds_address():
        return (
            "if it has ended, run `ray stop` to remove what it left behind, "
            "or set RAY_ADDRESS=local to start a cluster here"
        )
    return "fix or unset RAY_ADDRESS, or set RAY_ADDRESS=local to start a cluster here"


def _why_no_cluster(target: str, client: bool) -> str | None:
    """Return why what listens at host:port is not a Ray cluster, None if it may be one.

    Args:
        target: host:port.
        client: the port should be that of Ray Client (ray://), not of the cluster's GCS.

    Raises:
        UserError: it is a cluster that refuses this process's token.
    """
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
        from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
        from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    except ImportError:
        # These are Ray's own modules, which another version may move. Then Ray finds out itself.
        return None
    channel = init_grpc_channel(target, options=GLOBAL_GRPC_OPTIONS)
    try:
        if client:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_TIMEOUT_SECONDS)
        else:
            NodeInfoGcsServiceStub(channel).CheckAlive(
                CheckAliveRequest(), timeout=_ANSWER_TIMEOUT_SECONDS
            )
    except grpc.FutureTimeoutError:
        return "something else listens there, or it hangs"
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return f"another service is there; for Ray Client, write ray://{target}"
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return "something else listens there, or it hangs"
        # Ray itself would retry for half a minute, and then not say why.
        if code == grpc.StatusCode.UNAUTHENTICATED:
            raise UserError(
                f"the Ray cluster {target} takes only commands with its token; set "
                "RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from its head node if this is "
                "another machine"
            ) from None
    finally:
        channel.close()
    return None


def _temp_folder() -> Path:
    """Return the folder for Ray's sessions, found as Ray finds it."""
    from ray._common.utils import get_default_ray_temp_dir

    return Path(get_default_ray_temp_dir())


def _check_temp_folder() -> None:
    """Raise UserError if a local cluster can't keep its files and sockets in Ray's folder.

    Ray itself would find out when some of its processes run.
    """
    folder = _temp_folder()
    remedy = "set RAY_TMPDIR to {}, for example RAY_TMPDIR=/tmp/{}"
    # Ray's processes would look for it in their own working directories.
    if not folder.is_absolute():
        raise UserError(
            f"Ray's folder {folder} is not an absolute path; "
            + remedy.format("one", f"ray-{os.getuid()}")
        )
    # The longest path of a socket in it; its time has as many digits as any.
    session = f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    length = len(os.fsencode(folder / session / "sockets" / "plasma_store"))
    limit = _SOCKET_PATH_BYTES
    if length > limit:
        raise UserError(
            f"the path of Ray's folder {folder} is {length - limit} bytes too long for sockets; "
            + remedy.format("a shorter one", "r")
        )
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        # An attempt is the only test that counts access lists and read-only file systems.
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(
            f"Ray can't write into its folder {folder} ({error.strerror or error}), which may be "
            "another user's; " + remedy.format("a folder of your own", f"ray-{os.getuid()}")
        ) from None


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler afterwards; Ray's would end the driver with a stack dump."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Python allows signal.signal() in the main thread only.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _why_not_connected(error: Exception, existing: bool) -> str:
    reason = without_passwords(first_line(error)).rstrip(". ")[:200]
    address = os.environ.get("RAY_ADDRESS")
    if not existing:
        # Ray writes ~/.ray/auth_token for every new cluster.
        if re.search(r"/\.ray\b|home directory", reason, re.IGNORECASE):
            home = os.environ.get("HOME")
            return (
                f"Ray can't keep its token under HOME, which is {home or 'not set'} ({reason}); "
                "set HOME to a folder that you can write to"
            )
        logs = _temp_folder() / "session_latest" / "logs"
        return f"Ray can't be started on this machine ({reason}); see its logs in {logs}"
    if address:
        shown = without_passwords(address)
        return f"the Ray cluster {shown} can't be joined ({reason}); {_remedy()}"
    return f"the Ray cluster of this machine can't be joined ({reason}); {_remedy()}"


def max_nodes() -> list[Resources] | None:
    """Return all nodes the cluster may have, counting those an autoscaler has yet to start.

    Returns:
        Resources of each node, the head first; None if that can't be known (on Kubernetes).
    """
    import ray

    if config := _cluster_config():
        return _planned_nodes(config)
    # KubeRay keeps the limits of its autoscaler in Kubernetes, not in a file.
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def max_resources() -> Resources | None:
    """Return what the cluster can hold at once; None if that can't be known.

    If not all kinds of nodes can run at once, those with the most GPUs are counted.
    """
    nodes = max_nodes()
    if nodes is None:
        return None
    return _total(_nodes_at_once(nodes, {"GPU": 1.0}))


def _cluster_config() -> dict[str, Any]:
    """Return the config of a cluster that `ray up` started, or {} for any other cluster."""
    file = _BOOTSTRAP.expanduser()
    if not file.exists():
        return {}
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})


def _planned_nodes(config: dict[str, Any]) -> list[Resources]:
    """Return the head, then as many workers of each node type as its own limit allows.

    `_nodes_at_once` applies the limit on all workers together.
    """
    heads: list[Resources] = []
    workers: list[Resources] = []
    for name, node_type in (config.get("available_node_types") or {}).items():
        # Keys of a node type may be empty in the YAML, and so may the node type itself.
        node_type = node_type or {}
        resources = {
            resource: float(amount)
            for resource, amount in (node_type.get("resources") or {}).items()
        }
        is_head = name == config.get("head_node_type")
        if is_head:
            heads.append(resources)
        count = node_type.get("max_workers")
        if count is None:
            # Ray's defaults: no further nodes of the head's type, and of the other types as many as
            # the cluster may have in all.
            count = 0 if is_head else config.get("max_workers") or 0
        workers += [resources] * count
    return heads + workers


def _nodes_at_once(nodes: list[Resources], worker: Resources) -> list[Resources]:
    """Return the nodes that can run at once under the cluster config's total `max_workers`.

    Args:
        nodes: the head, then the workers; the head doesn't count towards the limit.
        worker: resources of one worker of a trial. Nodes that hold many of these are chosen
            first, then those with many GPUs.
    """
    limit = _cluster_config().get("max_workers")
    if limit is None:
        return nodes

    def usefulness(node: Resources) -> tuple[int, float, float]:
        return _workers_on(node, worker), node.get("GPU", 0.0), node.get("CPU", 0.0)

    head, workers = nodes[:1], nodes[1:]
    return head + sorted(workers, key=usefulness, reverse=True)[:limit]


def _total(nodes: list[Resources]) -> Resources:
    total: Resources = {}
    for node in nodes:
        for name, amount in node.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def idle_gpus_warning(experiment: Experiment) -> str | None:
    """Return a warning if the cluster has GPUs and the trials ask for none, else None."""
    count = int((max_resources() or {}).get("GPU", 0))
    if not count or experiment.scaling.gpus_per_worker:
        return None
    gpus = "a GPU" if count == 1 else f"{count} GPUs"
    return (
        f"the cluster has {gpus}, but scaling.gpus_per_worker is 0, so trials run on CPUs; "
        "give each worker a GPU with --gpus-per-worker 1"
    )


def worker_cpus(experiment: Experiment) -> float:
    """Return the CPUs a worker asks Ray for: `cpus_per_worker` less `DRIVER_CPUS`."""
    return max(DRIVER_CPUS, experiment.scaling.cpus_per_worker - DRIVER_CPUS)


def worker_resources(experiment: Experiment) -> Resources:
    """Return the resources a worker asks Ray for. Zero amounts are left out."""
    resources = {"CPU": worker_cpus(experiment), "GPU": experiment.scaling.gpus_per_worker}
    return {name: amount for name, amount in resources.items() if amount}


def concurrent_trials(experiment: Experiment) -> int:
    """Return how many trials of this experiment the cluster can run at once.

    The workers of a trial may be spread over nodes, but each worker must fit on one node. Trial
    drivers take no CPU.

    Returns:
        At least 1, at most `scaling.max_concurrent`.

    Raises:
        UserError: not even one trial would ever fit.
    """
    scaling = experiment.scaling
    nodes = max_nodes()
    if nodes is None:
        return scaling.max_concurrent or _DEFAULT_CONCURRENT_TRIALS
    worker = worker_resources(experiment)
    nodes = _nodes_at_once(nodes, worker)
    workers = sum(_workers_on(node, worker) for node in nodes)
    if workers < scaling.workers:
        raise UserError(_why_too_small(experiment, nodes, workers))
    trials = workers // scaling.workers
    if scaling.max_concurrent:
        trials = min(trials, scaling.max_concurrent)
    return trials


def _workers_on(node: Resources, worker: Resources) -> int:
    """Return how many workers fit on a node."""
    # The small term makes up for floating-point error, as in 0.3 / 0.1 = 2.9999999999999996.
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in worker.items())


def _why_too_small(experiment: Experiment, nodes: list[Resources], workers: int) -> str:
    scaling = experiment.scaling
    # The message names the CPUs that the user set. The request itself is lower, see `DRIVER_CPUS`.
    requested = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    worker = worker_resources(experiment)
    total = _total(nodes)
    for name, amount in worker.items():
        if _workers_on(total, {name: amount}) < scaling.workers:
            return (
                f"scaling.workers {scaling.workers} × {requested[name]:g} {name} is more than the "
                f"{total.get(name, 0.0):g} {name} this cluster can ever have; "
                f"lower scaling.workers or scaling.{name.lower()}s_per_worker"
            )
    needed = " and ".join(f"{requested[name]:g} {name}" for name in worker)
    return (
        f"each worker must fit on one node, and the nodes of this cluster hold {workers} workers "
        f"of {needed}, but scaling.workers is {scaling.workers}; "
        "lower it, or the resources of each worker"
    )
