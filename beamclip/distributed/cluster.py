"""What the cluster can give, and how many trials fit."""

import os
from pathlib import Path

import yaml

from beamclip.config import Experiment, UserError

DRIVER_CPUS = 0.01  # a trial's driver only waits; any more and drivers would starve their own workers (ray#47440)
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves the cluster's plan here, on its head


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
