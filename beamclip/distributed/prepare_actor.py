"""Plan and build the stores that a sweep needs, on the cluster, before its first trial.

The driver imports this module. So torch, and all of beamclip that needs it, is imported inside
methods and functions that run in the actor or in its tasks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import ray

from beamclip.config import Experiment, UserError, first_line, validate
from beamclip.distributed.cluster import max_resources
from beamclip.distributed.shard_pool import ClusterRunner, find_user_error, pool_size
from beamclip.distributed.store_reports import (
    BalanceSummary,
    BuiltStores,
    InputKeys,
    PackedSummary,
    PlannedStore,
    VerifiedStore,
)
from beamclip.stores.moved_places import Places, with_moved_places
from beamclip.stores.paths import asset_key

if TYPE_CHECKING:
    from beamclip.preparation.context import PreparationContext
    from beamclip.preparation.throughput import Throughput
    from beamclip.teachers import Teacher

Result = TypeVar("Result")
_POLL_SECONDS = 0.3
# Errors after which the actor, or the cluster it ran on, is gone.
_LOST = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.RaySystemError,
)


class PrepareActor:
    """The Ray actor that plans and builds stores, in one thread, and reports progress in another.

    It loads one copy of each teacher, on the CPU. It holds no GPU: with a single GPU, the pools of
    actors that do the work in shards could then never start. Its methods return plain values, so
    that the driver can unpickle them without importing torch.

    Args:
        experiments: asset key -> experiment as JSON text.
        root: folder of all stores.
        repair: build damaged stores again.
        resources: CPU and GPU of the cluster, counting nodes that may still be started.
    """

    def __init__(
        self, experiments: Mapping[str, str], root: str, repair: bool, resources: dict[str, float]
    ) -> None:
        self._experiments = {
            key: validate(Experiment, json.loads(text)) for key, text in experiments.items()
        }
        self._root = Path(root)
        self._repair = repair
        self._resources = resources
        self._progress: tuple[str, int, int] = ("", 0, 0)
        self._lines: list[str] = []
        self._context: PreparationContext | None = None

    def progress(self) -> tuple[tuple[str, int, int], list[str]]:
        """Return how far the current work is, and all lines to print so far.

        The first value has the label of the work, the amount done and the total amount.
        """
        return self._progress, self._lines

    def plan(self) -> list[PlannedStore]:
        """Return the needed stores, in the order in which they are built."""
        from beamclip.preparation.plan import Parallelism, plan

        cpu_pool = pool_size(False, self._resources)
        teacher_pool = pool_size(True, self._resources, self._teacher_actors())
        parallelism = Parallelism(cpu_pool.max_size, teacher_pool.max_size)
        stores = plan(self._experiments.values(), self._open_context(), parallelism)
        return [cast(PlannedStore, asdict(store)) for store in stores]

    def identify(self) -> dict[str, InputKeys]:
        """Return keys of the content of images and teachers, by asset key. Builds nothing."""
        from beamclip.stores import key_of

        context = self._open_context()
        keys = {}
        for key, experiment in self._experiments.items():
            # The demo's teacher is no input; it may not be trained yet.
            teachers = [
                None if tower.model == "demo" else key_of(context.teacher(tower).fingerprint)
                for tower in experiment.teachers
            ]
            packed = context.packed_path(experiment.data).name
            keys[key] = InputKeys(packed=packed, teachers=teachers)
        return keys

    def pack(self) -> PackedSummary:
        """Pack the images of the one experiment, without torch."""
        from beamclip.data import pack

        (experiment,) = self._experiments.values()
        runner = ClusterRunner(self._resources)
        packed = pack(experiment.data, self._root, self._set_progress, runner, self._repair)
        return PackedSummary(
            path=str(packed.store.path),
            images=len(packed),
            bytes=packed.store.bytes,
            bad=len(packed.bad),
            flat=len(packed.flat),
        )

    def build(self, backbones: Sequence[str], untrained: bool) -> BuiltStores:
        """Build the missing stores.

        Args:
            backbones: timm's names of all student backbones. They are checked first, so that a
                mistyped name fails before hours of building.
            untrained: also evaluate the untrained student of the first experiment.
        """
        from beamclip.preparation.build import prepare_all
        from beamclip.students import check_backbone

        for name in backbones:
            check_backbone(name)
        built = prepare_all(self._experiments, self._open_context())
        assets = {key: experiment_assets.to_json() for key, experiment_assets in built.items()}
        metrics = self._evaluate_untrained(assets) if untrained else {}
        return BuiltStores(assets=assets, untrained=metrics)

    def balance(self) -> BalanceSummary:
        """Balance the training images of the one experiment, see `beamclip.balance`."""
        from beamclip.balance import read_balance_report
        from beamclip.preparation.teacher_passes import balance_train_images

        (experiment,) = self._experiments.values()
        store = balance_train_images(experiment, self._open_context())
        return BalanceSummary(path=str(store.path), report=read_balance_report(store))

    def verify(self, count: int) -> list[VerifiedStore]:
        """Encode `count` views of each embedding store again, see `beamclip.preparation.verify`."""
        from beamclip.preparation.verify import verify

        results = verify(self._experiments.values(), self._open_context(), count)
        return [cast(VerifiedStore, asdict(result)) for result in results]

    def _open_context(self) -> "PreparationContext":
        """Return the context that all methods share: it keeps the loaded teachers."""
        from beamclip.preparation.context import PreparationContext

        if self._context is not None:
            return self._context
        context = PreparationContext(
            self._root,
            progress=self._set_progress,
            run=ClusterRunner(self._resources, self._teacher_actors()),
            repair=self._repair,
            say=self._lines.append,
        )
        if self._has_gpus():
            # Throughput and precision depend on the GPU, and this actor holds none: ask a task that
            # does.
            context = replace(
                context,
                run_small=context.run,
                measure_throughput=_throughput_on_gpu,
                precision=_run_on_gpu(_auto_precision),
            )
        self._context = context
        return context

    def _has_gpus(self) -> bool:
        return bool(self._resources.get("GPU"))

    def _teacher_actors(self) -> tuple[int, int] | None:
        # The first experiment's setting counts for the whole sweep.
        first_experiment = next(iter(self._experiments.values()))
        return first_experiment.teacher.actors

    def _evaluate_untrained(self, assets: Mapping[str, str]) -> dict[str, float]:
        key, experiment = next(iter(self._experiments.items()))
        self._set_progress("probing the untrained student", 0, 1)
        arguments = (experiment.model_dump_json(), assets[key], str(self._root))
        if self._has_gpus():
            return _run_on_gpu(_untrained_metrics, *arguments)
        return _untrained_metrics(*arguments)

    def _set_progress(self, label: str, done: int, total: int) -> None:
        self._progress = (label, done, total)


def _untrained_metrics(experiment: str, assets: str, root: str) -> dict[str, float]:
    import torch

    from beamclip.preparation.assets import Assets
    from beamclip.training.evaluate import untrained_metrics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return untrained_metrics(
        validate(Experiment, json.loads(experiment)), Assets.from_json(assets), Path(root), device
    )


def _throughput_on_gpu(teacher: "Teacher") -> "Throughput":
    # Only the config travels. The task loads a copy of the teacher onto its GPU.
    return _run_on_gpu(_measure_throughput, teacher.config.model_dump_json())


def _measure_throughput(tower: str) -> "Throughput":
    """Measure a teacher's throughput, given its `TowerConfig` as JSON text."""
    import torch

    from beamclip.config import TowerConfig
    from beamclip.preparation.throughput import measure_throughput
    from beamclip.teachers import load_teacher

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure_throughput(load_teacher(validate(TowerConfig, json.loads(tower)), device))


def _auto_precision() -> str:
    """Return the precision that `teacher.precision: auto` selects on this GPU."""
    import torch

    from beamclip.teachers import precision_for

    return "bf16" if precision_for("auto", torch.device("cuda")) == torch.bfloat16 else "fp32"


def _run_on_gpu(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a Ray task that holds a GPU, and return its result."""
    task = ray.remote(function).options(num_cpus=0, num_gpus=1)
    result: Result = ray.get(task.remote(*arguments))
    return result


class Display(Protocol):
    """Shows progress and prints lines above it, such as `beamclip.sweep.progress.ProgressBars`."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show progress, see `beamclip.stores.Progress`."""

    def write(self, text: str) -> None:
        """Print a line."""


class Preparation:
    """The driver's handle of a `PrepareActor`.

    Its methods block until the actor is done and show its progress meanwhile. A UserError that was
    raised in the actor or in one of its tasks is raised here with the same message.

    Args:
        planned: all experiments of the sweep's space.
        root: folder of all stores.
        show: shows progress, about three times per second, and lines while a method runs.
        repair: build damaged stores again.
        moved: inputs of a resumed sweep that were moved. Asset keys are made from the first places.
    """

    def __init__(
        self,
        planned: Sequence[Experiment],
        root: Path,
        show: Display,
        repair: bool = False,
        moved: Places | None = None,
    ) -> None:
        self._backbones = sorted({experiment.student.backbone for experiment in planned})
        self._show = show
        self._lines_shown = 0
        experiments: dict[str, str] = {}
        for experiment in planned:
            # Experiments with the same key need the same stores, so one of them is enough. Keep the
            # first: later ones may start from students that have yet to be trained.
            key = asset_key(experiment)
            if key not in experiments:
                experiments[key] = with_moved_places(experiment, moved or {}).model_dump_json()
        # Ray sets OMP_NUM_THREADS to 1 for an actor that asks for no CPU. The cluster is idle now,
        # so let this one use all CPUs of a node.
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        threads = min(cpus, _largest_node_cpus())
        actor_class = ray.remote(PrepareActor).options(
            num_cpus=0,
            # Two threads, so that `progress` answers while another method runs.
            max_concurrency=2,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        self._actor: Any = actor_class.remote(
            experiments, str(root), repair, _cluster_resources(planned)
        )

    def plan(self) -> list[PlannedStore]:
        """Return the needed stores, see `PrepareActor.plan`."""
        return list(self._wait(self._actor.plan.remote()))

    def identify(self) -> dict[str, InputKeys]:
        """Return keys of the inputs' content, see `PrepareActor.identify`."""
        keys: dict[str, InputKeys] = self._wait(self._actor.identify.remote())
        return keys

    def pack(self) -> PackedSummary:
        """Pack images, see `PrepareActor.pack`."""
        summary: PackedSummary = self._wait(self._actor.pack.remote())
        return summary

    def build(self, untrained: bool) -> BuiltStores:
        """Build the missing stores, see `PrepareActor.build`."""
        built: BuiltStores = self._wait(self._actor.build.remote(self._backbones, untrained))
        return built

    def balance(self) -> BalanceSummary:
        """Balance the training images, see `PrepareActor.balance`."""
        summary: BalanceSummary = self._wait(self._actor.balance.remote())
        return summary

    def verify(self, count: int) -> list[VerifiedStore]:
        """Encode stored views again, see `PrepareActor.verify`."""
        return list(self._wait(self._actor.verify.remote(count)))

    def close(self) -> None:
        """End the actor, which frees the teacher's memory."""
        ray.kill(self._actor)

    def _wait(self, result: Any) -> Any:
        try:
            while not ray.wait([result], timeout=_POLL_SECONDS)[0]:
                self._show_progress()
            value = ray.get(result)
            self._show_progress()
            # An empty label ends the bar.
            self._show("", 0, 0)
            return value
        except ray.exceptions.RayError as error:
            user_error = find_user_error(error)
            if user_error is None and isinstance(error, _LOST):
                user_error = _actor_lost(error)
            # Hide Ray's traceback: the sentence of a UserError is all that the user should see.
            raise (user_error or error) from None

    def _show_progress(self) -> None:
        progress, lines = ray.get(self._actor.progress.remote())
        self._show(*progress)
        for line in lines[self._lines_shown :]:
            self._show.write(line)
        self._lines_shown = len(lines)


def _cluster_resources(planned: Sequence[Experiment]) -> dict[str, float]:
    """Return the cluster's resources, counting nodes an autoscaler has yet to start."""
    resources = max_resources() or dict(ray.cluster_resources())
    # On Kubernetes, nodes that have yet to start are unknown. If trials ask for GPUs, there will be
    # at least one.
    trials_use_gpus = any(experiment.scaling.gpus_per_worker for experiment in planned)
    expected_gpus = 1.0 if trials_use_gpus else 0.0
    return resources | {"GPU": max(resources.get("GPU", 0.0), expected_gpus)}


def _actor_lost(error: Exception) -> UserError:
    reason = first_line(error).rstrip(".")[:200]
    return UserError(
        f"the process that prepares stores, or the cluster it ran on, is gone ({reason}); "
        "finished shards are kept: run the same command again to continue"
    )


def _largest_node_cpus() -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
