"""What the cluster can give, and how many trials fit."""

import os
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Experiment, UserError

DRIVER_CPUS = 0.01  # so much a worker leaves free: what drivers ask for that an earlier version began and a resume restores
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves the cluster's plan here, on its head


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
        resources = {resource: float(amount) for resource, amount in ((node or {}).get("resources") or {}).items()}
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
    best = sorted(nodes[1:], key=lambda node: (_places(node, each), node.get("GPU", 0.0), node.get("CPU", 0.0)), reverse=True)
    return nodes[:1] + best[:most]


def most_resources() -> Resources | None:
    """What the cluster can hold at once, None where nobody can know. Where not all nodes may be there together, of those with most GPUs."""
    nodes = most_nodes()
    return None if nodes is None else _together(_at_once(nodes, {"GPU": 1.0}))


def _together(nodes: list[Resources]) -> Resources:
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in {name for node in nodes for name in node}}


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
