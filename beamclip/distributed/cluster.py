"""Join or start the Ray cluster, and work out what it can hold.

`connect` joins the cluster of $RAY_ADDRESS or of this machine, or starts a local one.
`concurrent_trials` says how many trials fit, counting nodes that an autoscaler has yet to start.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Experiment, UserError, first_line

Resources = dict[str, float]
"""Resources of one node, or of several together, under Ray's names (CPU, GPU, ...)."""

DRIVER_CPUS = 0.01
"""CPU share each worker leaves free for a trial driver.

Trial drivers of sweeps that an earlier version started ask for this share when they are restored.
Drivers of this version ask for no CPU."""

# Ray's environment variables; those that the user has set are kept.
_SETTINGS = {
    # The sweep shows its own progress.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Results go to MLflow, through one writer.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Not every report holds the metric that a search or ASHA looks at.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Don't hide GPUs from processes that ask for none (Ray's default today).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A sweep starts more small processes than Ray expects, and Ray would warn about them.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    # Train polls its workers every 2 s by default. A short trial would spend more time waiting for
    # that than training. Train's own metrics are for Prometheus, which a sweep doesn't have.
    # docs/benchmarks.md has the time that is saved.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# A local cluster's only node is this machine, which can't be preempted.
_LOCAL_SETTINGS = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_CONNECT_TIMEOUT_SECONDS = 5
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
    settings = _SETTINGS if existing else _SETTINGS | _LOCAL_SETTINGS
    # Ray reads some of these variables when it is imported, so set them before.
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    # Train's placement group cleaner queries the dashboard. Without it, a stopped trial would keep
    # its resources.
    options = {} if existing else {"include_dashboard": True}
    if not ray.is_initialized():
        _check_answers(os.environ.get("RAY_ADDRESS", ""))
        try:
            with _keep_sigterm_handler():
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    **options,
                )
        except (OSError, RuntimeError, ValueError) as error:
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
    # In this order: Ray reads some of `_SETTINGS` when it is imported, and they are not set yet.
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
    from ray._private import services

    # Look for an address in the same place as ray.init(). A search for running processes of Ray
    # would also find other users' local clusters.
    return services.canonicalize_bootstrap_address(None) is not None


def _check_answers(address: str) -> None:
    """Raise UserError if nothing listens at `address`; Ray itself would retry for 15 minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    # Leave addresses without a port, such as "auto", to Ray.
    if not port.isdigit():
        return
    try:
        # Brackets enclose an IPv6 address.
        target = (host.strip("[]"), int(port))
        socket.create_connection(target, _CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"the Ray cluster {address} doesn't answer ({error.strerror or error}); "
            "fix or unset RAY_ADDRESS"
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
    reason = first_line(error).rstrip(". ")[:200]
    address = os.environ.get("RAY_ADDRESS")
    if not existing:
        return f"Ray can't be started on this machine ({reason}); see its logs in /tmp/ray"
    if address:
        return f"the Ray cluster {address} can't be joined ({reason}); fix or unset RAY_ADDRESS"
    return (
        f"the Ray cluster of this machine can't be joined ({reason}); "
        "if it has ended, run `ray stop` to remove what it left behind"
    )


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
