"""Planning and building what a sweep needs, on the cluster, before its first trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from beamclip.config import Experiment, UserError
from beamclip.distributed.cluster import most_resources
from beamclip.distributed.passes import user_error_in
from beamclip.distributed.preparer import Preparer
from beamclip.storage import asset_key
from beamclip.stores import Progress

_LOOK_SECONDS = 0.3


class Preparation:
    """The preparer, seen from the sweep's one process.

    Args:
        planned: every cell of the space.
        root: folder of all stores.
        show: called about three times a second while something runs.
        repair: build again what is damaged.
    """

    def __init__(self, planned: Sequence[Experiment], root: Path, show: Progress, repair: bool = False) -> None:
        self._backbones = sorted({experiment.student.backbone for experiment in planned})
        texts: dict[str, str] = {}
        for experiment in planned:  # the first of each: later ones may start from students that are yet to be trained
            texts.setdefault(asset_key(experiment), experiment.model_dump_json())
        self._show = show
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # torch would give one thread to an actor that asks for no CPU; the cluster is idle now, so take a node's worth.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(min(cpus, _node_cpus()))}}
        options = ray.remote(Preparer).options(num_cpus=0, max_concurrency=2, runtime_env=environment)
        self._actor: Any = options.remote(texts, str(root), repair, _resources(planned))

    def plan(self) -> list[dict[str, Any]]:
        """See `Preparer.plan`."""
        return list(self._wait(self._actor.plan.remote()))

    def pack(self) -> dict[str, Any]:
        """See `Preparer.pack`."""
        return dict(self._wait(self._actor.pack.remote()))

    def build(self, untrained: bool) -> dict[str, Any]:
        """See `Preparer.prepare`."""
        return dict(self._wait(self._actor.prepare.remote(self._backbones, untrained)))

    def balance(self) -> dict[str, Any]:
        """See `Preparer.balance`."""
        return dict(self._wait(self._actor.balance.remote()))

    def verify(self, count: int) -> list[dict[str, Any]]:
        """See `Preparer.verify`."""
        return list(self._wait(self._actor.verify.remote(count)))

    def close(self) -> None:
        """End the actor, and with it the teacher's memory."""
        ray.kill(self._actor)

    def _wait(self, result: Any) -> Any:
        """The result, or what went wrong as one sentence, whatever process it came from."""
        try:
            while not ray.wait([result], timeout=_LOOK_SECONDS)[0]:
                self._show(*ray.get(self._actor.progress.remote()))
            value = ray.get(result)
            self._show("", 0, 0)  # all is done
            return value
        except ray.exceptions.RayError as error:
            cause = user_error_in(error)
            lost = _lost(error) if isinstance(error, _GONE) else error
            raise (lost if cause is None else cause) from None


def _resources(planned: Sequence[Experiment]) -> dict[str, float]:
    """What the cluster can give, counting nodes it has not started yet; where trials want GPUs, at least one will come."""
    resources = most_resources() or dict(ray.cluster_resources())
    wants = any(experiment.scaling.gpus_per_worker for experiment in planned)
    return resources | {"GPU": max(resources.get("GPU", 0.0), 1.0 if wants else 0.0)}


_GONE = (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError, ray.exceptions.RaySystemError)


def _lost(error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
    return UserError(
        f"the process that prepares stores, or the cluster it ran on, is gone ({reason}); "
        "finished shards are kept: run the same command again to go on"
    )


def _node_cpus() -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
