"""What the cluster can give, and how many trials fit."""

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

from beamclip.config import Experiment, UserError

# Joining the cluster that is there, or starting one of this machine alone.


# Ray Train looks after its workers every 2 s; a trial of seconds would wait longer for that than it works.
# Its own metrics go to a Prometheus that a sweep does not have. What each of these saves is in docs/benchmarks.md.
_FAST = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_METRICS_ENABLED": "0"}
# Nobody takes this machine away, so nobody needs to watch for it.
_FAST_ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to MLflow, by one writer
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report holds the metric that a search or ASHA looks at
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A sweep starts more small processes than Ray expects, and says so itself.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
}
_ANSWER_SECONDS = 5


def connect() -> bool:
    """Join the cluster this machine or $RAY_ADDRESS knows of, or start one of this machine alone. Quiet.

    Returns:
        True where a cluster was there before.

    Raises:
        UserError: there should be one, and it doesn't answer; or none can be started.
    """
    existing = _cluster_exists()
    settings = _QUIET | _FAST | ({} if existing else _FAST_ALONE)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    # With the dashboard, because Train's cleaner of leaked placement groups asks it.
    alone = {} if existing else {"include_dashboard": True}
    if not ray.is_initialized():
        _check_answers(os.environ.get("RAY_ADDRESS", ""))
        try:
            with _own_signals():
                ray.init(
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    **alone,
                )
        except (OSError, RuntimeError, ValueError) as error:
            if not existing:
                raise UserError(
                    f"Ray can't be started on this machine ({_first_line(error)}); its logs in /tmp/ray say more"
                ) from None
            address = os.environ.get("RAY_ADDRESS")
            mend = (
                f"{address} can't be joined ({_first_line(error)}); mend or unset RAY_ADDRESS"
                if address
                else (
                    f"of this machine can't be joined ({_first_line(error)}); `ray stop` forgets one that is gone"
                )
            )
            raise UserError(f"the Ray cluster {mend}") from None
    for name in ("ray.train", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return existing


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray ends its driver on SIGTERM with a dump of its own; what the program does then is the program's to say."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Ray itself would knock for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"the Ray cluster {address} doesn't answer ({error.strerror or error}); mend or unset RAY_ADDRESS"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")[:200]


def disconnect() -> None:
    """Leave the cluster; one that we started ends."""
    import ray

    ray.shutdown()


def _cluster_exists() -> bool:
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        return True
    if os.environ.get("RAY_ADDRESS") == "local":
        return False
    from ray._private import services

    # As ray.init() looks, and not at running processes: somebody else's local Ray is no cluster of ours.
    return services.canonicalize_bootstrap_address(None) is not None


DRIVER_CPUS = 0.01  # so much a worker leaves free: what drivers ask for that an earlier version began and a resume restores
_BOOTSTRAP = Path(
    "~/ray_bootstrap_config.yaml"
)  # `ray up` leaves the cluster's plan here, on its head


Resources = dict[str, float]
"""Of a node, or of all of them; Ray's names."""


def most_nodes() -> list[Resources] | None:
    """The nodes a cluster can ever have, counting those it has not started yet; None where nobody can know (Kubernetes)."""
    import ray

    if plan := _plan():
        return _planned_nodes(plan)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _plan() -> dict[str, Any]:
    file = _BOOTSTRAP.expanduser()
    return dict(yaml.safe_load(file.read_text()) or {}) if file.exists() else {}


def _planned_nodes(plan: dict[str, Any]) -> list[Resources]:
    """The head, then every worker that each kind of node allows for itself; `_at_once` knows how many of them there may be together."""
    heads: list[Resources] = []
    workers: list[Resources] = []
    for name, node in (plan.get("available_node_types") or {}).items():
        resources = {
            resource: float(amount)
            for resource, amount in ((node or {}).get("resources") or {}).items()
        }
        is_head, most = name == plan.get("head_node_type"), (node or {}).get("max_workers")
        heads += [resources] if is_head else []
        usual = 0 if is_head else plan.get("max_workers") or 0
        workers += [resources] * (usual if most is None else most)
    return heads + workers


def _at_once(nodes: list[Resources], each: Resources) -> list[Resources]:
    """Those of the nodes that the plan's own `max_workers`, the head not counted, lets be there together.

    Args:
        each: what one worker of a trial needs; nodes that hold many of these come first, then those with many GPUs.
    """
    most = _plan().get("max_workers")
    if most is None:
        return nodes
    best = sorted(
        nodes[1:],
        key=lambda node: (_places(node, each), node.get("GPU", 0.0), node.get("CPU", 0.0)),
        reverse=True,
    )
    return nodes[:1] + best[:most]


def most_resources() -> Resources | None:
    """What the cluster can hold at once, None where nobody can know. Where not all nodes may be there together, of those with most GPUs."""
    nodes = most_nodes()
    return None if nodes is None else _together(_at_once(nodes, {"GPU": 1.0}))


def _together(nodes: list[Resources]) -> Resources:
    return {
        name: sum(node.get(name, 0.0) for node in nodes)
        for name in {name for node in nodes for name in node}
    }


def idle_gpus(experiment: Experiment) -> str | None:
    """What to tell a user whose cluster has GPUs that none of the trials will touch."""
    count = int((most_resources() or {}).get("GPU", 0))
    if not count or experiment.scaling.gpus_per_worker:
        return None
    there = f"{count} GPUs are" if count > 1 else "a GPU is"
    return f"{there} here, but scaling.gpus_per_worker is 0, so trials run on CPUs; give each worker one with --gpus-per-worker 1"


def worker_cpus(experiment: Experiment) -> float:
    """What a worker asks Ray for: a hair less than it was promised, for drivers that an earlier version began; ours ask for none."""
    return max(DRIVER_CPUS, experiment.scaling.cpus_per_worker - DRIVER_CPUS)


def needs(experiment: Experiment) -> Resources:
    """Resources of one worker."""
    wanted = {"CPU": worker_cpus(experiment), "GPU": experiment.scaling.gpus_per_worker}
    return {name: amount for name, amount in wanted.items() if amount}


def concurrent_trials(experiment: Experiment) -> int:
    """How many trials of this experiment the cluster holds at once, at least one.

    Workers of a trial may be on several nodes, each of them on one; its driver takes no CPU.

    Raises:
        UserError: not even one would ever fit: no node is large enough for a worker, or all together are too few for the workers of one.
    """
    every, scaling = most_nodes(), experiment.scaling
    if every is None:
        return scaling.max_concurrent or 8
    nodes = _at_once(every, needs(experiment))
    places = sum(_places(node, needs(experiment)) for node in nodes)
    if places < scaling.workers:
        raise UserError(_too_small(experiment, nodes, places))
    return min(places // scaling.workers, scaling.max_concurrent or 10**6)


def _places(node: Resources, each: Resources) -> int:
    """How many workers a node holds."""
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items())


def _too_small(experiment: Experiment, nodes: list[Resources], places: int) -> str:
    scaling, all_of_it = experiment.scaling, _together(nodes)
    asked = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    for name, amount in needs(experiment).items():
        there = all_of_it.get(name, 0.0)
        if int(there / amount + 1e-9) < scaling.workers:
            return (
                f"scaling.workers {scaling.workers} × {asked[name]:g} {name} is more than the {there:g} {name} this cluster can ever give; "
                f"lower scaling.workers or scaling.{name.lower()}s_per_worker"
            )
    wanted = " and ".join(f"{asked[name]:g} {name}" for name in needs(experiment))
    return (
        f"a worker has to be on one node, and the nodes of this cluster hold {places} workers of {wanted}, where scaling.workers is "
        f"{scaling.workers}; lower it, or what each of them asks for"
    )
