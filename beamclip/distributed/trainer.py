"""A trial: Tune's driver function, and the train function its workers run. Neither needs torch to be imported here."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.tune
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback, placement_group_callback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller.placement_group_cleaner import (
    PlacementGroupCleaner,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from beamclip.config import Experiment, validate
from beamclip.distributed.cluster import worker_cpus

# DDP workers under Ray Train without torch in the processes that only steer.
#
# Ray's `TorchTrainer` is `DataParallelTrainer` with a torch backend whose module imports torch, so that the trial's driver and
# Train's controller each pay for an import they never use. This backend does the same work and imports torch in the workers alone.
# What that saves is in docs/benchmarks.md.


_TIMEOUT = timedelta(minutes=30)
_SHUTDOWN_SECONDS = 30


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """backend: `gloo` on CPUs, `nccl` on GPUs."""

    backend: str = "gloo"

    @property
    def backend_cls(self) -> type["ProcessGroupBackend"]:
        return ProcessGroupBackend

    @property
    def train_func_context(self) -> type["_OnItsDevice"]:
        return _OnItsDevice


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Sets up and tears down torch's process group around the train function."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Join all workers; rank 0's node holds the meeting point."""
        try:
            address, port = worker_group.execute_single(0, _free_address)
            size = len(worker_group)
            join = {
                "backend": backend_config.backend,
                "address": address,
                "port": port,
                "world_size": size,
            }
            ray.get(
                [
                    worker_group.execute_single_async(i, _join, world_rank=i, **join)
                    for i in range(size)
                ]
            )
        except Exception:
            _release(worker_group)
            raise

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Leave in order; workers that hang are ended by Ray anyway."""
        ray.wait(
            worker_group.execute_async(_leave),
            num_returns=len(worker_group),
            timeout=_SHUTDOWN_SECONDS,
        )


def _free_address() -> tuple[str, int]:
    from ray.train._internal.utils import get_address_and_port

    address, port = get_address_and_port()
    return str(address), int(port)


def _release(worker_group: Any) -> None:
    """Ray 2.60 forgets a group whose backend fails to start without freeing its placement group, and later trials starve."""
    state = getattr(worker_group, "_worker_group_state", None)
    if state is not None:
        state.shutdown()


class _OnItsDevice:
    """Around the train function: CUDA's current device belongs to a thread, and Train runs the function in one of its own."""

    def __enter__(self) -> None:
        _take_device()

    def __exit__(self, *exception: object) -> None:
        return None


def _take_device() -> None:
    import torch

    if torch.cuda.is_available():
        from ray.train.torch import get_device  # which of the node's GPUs Ray gave this worker

        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)


def _join(backend: str, address: str, port: int, world_rank: int, world_size: int) -> None:
    import torch.distributed as dist

    _take_device()

    context = ray.train.get_context()
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(world_rank), WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(context.get_local_rank()), LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )  # fmt: skip
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, rank=world_rank, world_size=world_size, timeout=_TIMEOUT)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


_LAST_BREATH = 2.0  # s


class _Cleaner(PlacementGroupCleaner):  # type: ignore[misc]
    """Frees the place of a trial that was stopped from outside, as ASHA does.

    Ray's own looks for a cluster on its machine to ask whether the trial still lives, and dies where it sees two: the place is lost,
    and a trial that needs it waits for ever.
    """

    def start_monitoring(self) -> Any:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        return super().start_monitoring()


class _CleanerCallback(PlacementGroupCleanerCallback):  # type: ignore[misc]
    """Lets Train's controller, in whose process it runs, start our cleaner in place of Ray's."""

    _started = False

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Before workers start again, leave time to be ended with them.

        Where a trial is stopped from outside, its workers die some tenths of a second before this controller does. In that time it
        would take a new place for new workers, of which no cleaner knows: the place is lost, and the next trial waits for ever.
        """
        if self._started:
            time.sleep(_LAST_BREATH)
        self._started = True
        super().before_worker_group_start(worker_group_context)

    def after_controller_start(self, train_run_context: Any) -> None:
        placement_group_callback.PlacementGroupCleaner = _Cleaner
        super().after_controller_start(train_run_context)


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """`DataParallelTrainer` with our cleaner, and without Ray Data, which we do not feed and which costs a second to import."""

    def _create_default_callbacks(self) -> list[Any]:
        replaced = (DatasetsCallback, PlacementGroupCleanerCallback)
        kept = [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, replaced)
        ]
        return [*kept, _CleanerCallback()]


def run_trial(config: dict[str, Any]) -> Any:
    """Tune's trainable: hands one experiment to Train and waits.

    Args:
        config: `experiment` and `assets` as JSON text, `folder` of all trials.

    Returns:
        Ray's last checkpoint, None where none was written.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    experiment = validate(Experiment, json.loads(config["experiment"]))
    reports = TuneReportCallback()
    try:
        result = build_trainer(
            experiment, config, ray.tune.get_context().get_trial_id(), [reports]
        ).fit()
    finally:
        _wait_until_taken(reports)
    return result.checkpoint


def _wait_until_taken(reports: Any) -> None:
    """Returning while Tune has yet to fetch the last report can lock the trial's actor for good (its result slot holds one)."""
    while not reports._training_actor_item_queue.empty():
        time.sleep(0.05)
    time.sleep(0.3)


def build_trainer(
    experiment: Experiment, config: dict[str, Any], name: str, callbacks: list[Any]
) -> Trainer:
    """A Train run whose name is a pure function of the trial: a restart finds its checkpoints by it."""
    scaling, storage = experiment.scaling, experiment.storage
    resources = {"CPU": worker_cpus(experiment)}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    return Trainer(
        train_function,
        train_loop_config={"experiment": config["experiment"], "assets": config["assets"]},
        backend_config=ProcessGroupConfig("nccl" if scaling.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=config["folder"],
            callbacks=callbacks,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=storage.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
    )


def train_function(config: dict[str, Any]) -> None:
    """What every Train worker runs."""
    import torch

    from beamclip.preparation.assets import Assets
    from beamclip.training.context import Context
    from beamclip.training.loop import TrainingDiverged
    from beamclip.training.worker import run_worker

    experiment = validate(Experiment, json.loads(config["experiment"]))
    train = ray.train.get_context()
    if experiment.scaling.gpus_per_worker:
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, int(experiment.scaling.cpus_per_worker)))
    with _latest_checkpoint() as checkpoint:
        context = Context(
            train.get_world_rank(), train.get_world_size(), device, _report, checkpoint
        )
        try:
            run_worker(experiment, Assets.from_json(config["assets"]), context)
        except TrainingDiverged as error:
            # Every rank comes here together, and a retry would only fail again. Other errors are left to Train, which tries again.
            # Train's own result forgets reports without a checkpoint: the sweep's relay hears this one through Tune.
            _report({"failure": str(error), "evidence": json.dumps(error.evidence)}, None)


def _report(metrics: dict[str, Any], folder: Path | None) -> None:
    checkpoint = ray.train.Checkpoint.from_directory(str(folder)) if folder is not None else None
    ray.train.report(metrics, checkpoint=checkpoint)


@contextlib.contextmanager
def _latest_checkpoint() -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)
