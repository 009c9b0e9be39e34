"""The cluster: joining or starting it, what it can give, how many trials fit."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from beamclip.config import Experiment, UserError

DRIVER_CPUS = 0.01  # a trial's driver only waits; any more and drivers would starve their own workers (ray#47440)

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
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves the cluster's plan here, on its head


def connect() -> bool:
    """Join the cluster this machine or $RAY_ADDRESS knows of, or start one of this machine alone. Quiet.

    Returns:
        True where a cluster was there before.

    Raises:
        UserError: there should be one, and it doesn't answer.
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
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **alone)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if not existing:
                raise
            address = os.environ.get("RAY_ADDRESS")
            mend = (
                f"{address} can't be joined ({_first_line(error)}); mend or unset RAY_ADDRESS"
                if address
                else (f"of this machine can't be joined ({_first_line(error)}); `ray stop` forgets one that is gone")
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
        raise UserError(f"the Ray cluster {address} doesn't answer ({error.strerror or error}); mend or unset RAY_ADDRESS") from None


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


def most_resources() -> dict[str, float] | None:
    """What the cluster can ever hold, counting nodes it has not started yet; None where nobody can know (Kubernetes)."""
    import ray

    plan = _BOOTSTRAP.expanduser()
    if plan.exists():
        return _planned_resources(yaml.safe_load(plan.read_text()))
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    return dict(ray.cluster_resources())


def _planned_resources(plan: dict[str, object]) -> dict[str, float]:
    total: dict[str, float] = {}
    types = plan.get("available_node_types")
    for name, node in (types if isinstance(types, dict) else {}).items():
        count = 1 if name == plan.get("head_node_type") else node.get("max_workers", plan.get("max_workers", 0))
        for resource, amount in node.get("resources", {}).items():
            total[resource] = total.get(resource, 0.0) + float(amount) * count
    return total


def idle_gpus(experiment: Experiment) -> str | None:
    """What to tell a user whose cluster has GPUs that none of the trials will touch."""
    count = int((most_resources() or {}).get("GPU", 0))
    if not count or experiment.scaling.gpus_per_worker:
        return None
    there = f"{count} GPUs are" if count > 1 else "a GPU is"
    return f"{there} here, but scaling.gpus_per_worker is 0, so trials run on CPUs; give each worker one with --gpus-per-worker 1"


def worker_cpus(experiment: Experiment) -> float:
    """What a worker asks Ray for: a hair less than it was promised, so that a node filled with workers has room for drivers."""
    return max(DRIVER_CPUS, experiment.scaling.cpus_per_worker - DRIVER_CPUS)


def needs(experiment: Experiment) -> dict[str, float]:
    """Resources of one trial."""
    scaling = experiment.scaling
    total = {"CPU": scaling.workers * worker_cpus(experiment) + DRIVER_CPUS, "GPU": scaling.workers * scaling.gpus_per_worker}
    return {name: amount for name, amount in total.items() if amount}


def concurrent_trials(experiment: Experiment) -> int:
    """How many trials of this experiment the cluster holds at once, at least one.

    Raises:
        UserError: not even one would ever fit.
    """
    most = most_resources()
    if most is None:
        return experiment.scaling.max_concurrent or 8
    counts = {name: int(most.get(name, 0.0) / amount + 1e-9) for name, amount in needs(experiment).items()}
    short = [name for name, count in counts.items() if count == 0]
    if short:
        scaling, name = experiment.scaling, short[0]
        each = scaling.gpus_per_worker if name == "GPU" else scaling.cpus_per_worker
        asked, there = f"{scaling.workers} × {each:g} {name}", f"{most.get(name, 0):g} {name}"
        raise UserError(
            f"scaling.workers {asked} is more than the {there} this cluster can ever give; "
            f"lower scaling.workers or scaling.{name.lower()}s_per_worker"
        )
    return min(min(counts.values()), experiment.scaling.max_concurrent or 10**6)
