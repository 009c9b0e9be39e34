"""Planning and building what a sweep needs, on the cluster, before its first trial."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from beamclip.config import Experiment, UserError, validate
from beamclip.distributed.cluster import most_resources
from beamclip.distributed.shard_pool import ClusterRunner, pool_for, user_error_in
from beamclip.stores import Progress
from beamclip.stores.paths import asset_key

# The actor that plans and builds stores.


class PrepareActor:
    """Actor that runs the compute half's planning and preparing in one thread and says how far it is in another.

    It holds torch and the first copy of each teacher, but no GPU: what falls into shards goes to pools of actors that do.
    """

    def __init__(
        self, experiments: Mapping[str, str], root: str, repair: bool, resources: dict[str, float]
    ) -> None:
        """experiments: asset key -> experiment as JSON text. resources: what the cluster can give."""
        self._experiments = {
            key: validate(Experiment, json.loads(text)) for key, text in experiments.items()
        }
        self._root, self._repair, self._resources = Path(root), repair, resources
        self._state: tuple[str, int, int] = ("", 0, 0)
        self._workshop: Any = None

    def progress(self) -> tuple[str, int, int]:
        """(what is being done, how much is done, how much there is)."""
        return self._state

    def plan(self) -> list[dict[str, Any]]:
        """The stores that are needed, each a `beamclip.preparation.plan.PlannedStore` as a dict."""
        from beamclip.preparation.plan import Parallelism, plan

        hands = Parallelism(
            pool_for(False, self._resources).most,
            pool_for(True, self._resources, self._actors()).most,
        )
        return [asdict(need) for need in plan(self._experiments.values(), self._open(), hands)]

    def pack(self) -> dict[str, Any]:
        """Pack the images of the one experiment, without torch. Returns `path`, `images`, `bytes`, `bad`."""
        from beamclip.data import pack

        (experiment,) = self._experiments.values()
        packed = pack(
            experiment.data, self._root, self._show, ClusterRunner(self._resources), self._repair
        )
        return {
            "path": str(packed.store.path),
            "images": len(packed),
            "bytes": packed.store.bytes,
            "bad": len(packed.bad),
        }

    def prepare(self, backbones: Sequence[str], untrained: bool) -> dict[str, Any]:
        """Build what is missing. Returns `assets` (key -> JSON) and `untrained` (metrics by key)."""
        from beamclip.preparation.build import prepare_all
        from beamclip.students import check_backbone

        for name in backbones:
            check_backbone(name)
        assets = {
            key: made.to_json()
            for key, made in prepare_all(self._experiments, self._open()).items()
        }
        return {"assets": assets, "untrained": self._untrained(assets) if untrained else {}}

    def balance(self) -> dict[str, Any]:
        """Balance the training images of the one experiment. Returns `path` and `report`, see `beamclip.balance`."""
        from beamclip.balance import report_in
        from beamclip.preparation.teacher_passes import make_balance

        (experiment,) = self._experiments.values()
        store = make_balance(experiment, self._open())
        return {"path": str(store.path), "report": report_in(store)}

    def verify(self, count: int) -> list[dict[str, Any]]:
        """Replay some views of every embedding store through the live teacher. See `beamclip.preparation.verify.verify`."""
        from beamclip.preparation.verify import verify

        return [asdict(one) for one in verify(self._experiments.values(), self._open(), count)]

    def _open(self) -> Any:
        from beamclip.preparation.context import PreparationContext

        if self._workshop is None:
            more = _of_gpus() if self._resources.get("GPU") else {}
            runner = ClusterRunner(self._resources, self._actors())
            self._workshop = PreparationContext(
                self._root, progress=self._show, run=runner, repair=self._repair, **more
            )
        return self._workshop

    def _actors(self) -> tuple[int, int] | None:
        return next(iter(self._experiments.values())).teacher.actors

    def _untrained(self, assets: Mapping[str, str]) -> dict[str, float]:
        key, experiment = next(iter(self._experiments.items()))
        self._show("probing the untrained student", 0, 1)
        call = _on_a_gpu if self._resources.get("GPU") else _here
        return dict(
            call(_untrained_metrics, experiment.model_dump_json(), assets[key], str(self._root))
        )

    def _show(self, label: str, done: int, total: int) -> None:
        self._state = (label, done, total)


def _untrained_metrics(experiment: str, assets: str, root: str) -> dict[str, float]:
    import torch

    from beamclip.preparation.assets import Assets
    from beamclip.training.evaluate import untrained_metrics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return untrained_metrics(
        validate(Experiment, json.loads(experiment)), Assets.from_json(assets), Path(root), device
    )


def _of_gpus() -> dict[str, Any]:
    """What must be found out where the GPUs are, since the preparer holds none: how fast a teacher is, what precision it has."""
    from beamclip.preparation.throughput import Throughput
    from beamclip.teachers import Teacher

    def measure_throughput(teacher: Teacher) -> Throughput:
        return Throughput(**_on_a_gpu(_pace_on_gpu, teacher.config.model_dump_json()))

    return {"find_pace": measure_throughput, "precision": _on_a_gpu(_precision_on_gpu)}


def _pace_on_gpu(tower: str) -> dict[str, Any]:
    import torch

    from beamclip.config import TowerConfig
    from beamclip.preparation.throughput import measure_throughput
    from beamclip.teachers import load_teacher

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return asdict(
        measure_throughput(load_teacher(validate(TowerConfig, json.loads(tower)), device))
    )


def _precision_on_gpu() -> str:
    import torch

    from beamclip.teachers import precision_for

    return "bf16" if precision_for("auto", torch.device("cuda")) == torch.bfloat16 else "fp32"


def _on_a_gpu(function: Any, *arguments: Any) -> Any:
    """The result of a function, called in a task that holds a GPU."""
    return ray.get(ray.remote(function).options(num_cpus=0, num_gpus=1).remote(*arguments))


def _here(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


_LOOK_SECONDS = 0.3


class Preparation:
    """The preparer, seen from the sweep's one process.

    Args:
        planned: every cell of the space.
        root: folder of all stores.
        show: called about three times a second while something runs.
        repair: build again what is damaged.
    """

    def __init__(
        self, planned: Sequence[Experiment], root: Path, show: Progress, repair: bool = False
    ) -> None:
        self._backbones = sorted({experiment.student.backbone for experiment in planned})
        texts: dict[str, str] = {}
        for experiment in (
            planned
        ):  # the first of each: later ones may start from students that are yet to be trained
            texts.setdefault(asset_key(experiment), experiment.model_dump_json())
        self._show = show
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # torch would give one thread to an actor that asks for no CPU; the cluster is idle now, so take a node's worth.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(min(cpus, _node_cpus()))}}
        options = ray.remote(PrepareActor).options(
            num_cpus=0, max_concurrency=2, runtime_env=environment
        )
        self._actor: Any = options.remote(texts, str(root), repair, _resources(planned))

    def plan(self) -> list[dict[str, Any]]:
        """See `PrepareActor.plan`."""
        return list(self._wait(self._actor.plan.remote()))

    def pack(self) -> dict[str, Any]:
        """See `PrepareActor.pack`."""
        return dict(self._wait(self._actor.pack.remote()))

    def build(self, untrained: bool) -> dict[str, Any]:
        """See `PrepareActor.prepare`."""
        return dict(self._wait(self._actor.prepare.remote(self._backbones, untrained)))

    def balance(self) -> dict[str, Any]:
        """See `PrepareActor.balance`."""
        return dict(self._wait(self._actor.balance.remote()))

    def verify(self, count: int) -> list[dict[str, Any]]:
        """See `PrepareActor.verify`."""
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


_GONE = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.RaySystemError,
)


def _lost(error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
    return UserError(
        f"the process that prepares stores, or the cluster it ran on, is gone ({reason}); "
        "finished shards are kept: run the same command again to go on"
    )


def _node_cpus() -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
