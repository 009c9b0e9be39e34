"""Run one trial with Ray Train: the trainer, and the train function that its workers run.

Only the workers import torch. Ray's own `TorchTrainer` is a `DataParallelTrainer` with a backend
whose module imports torch, so the trial's driver and Train's controller pay for an import they
never use. The backend here sets up the same process group and imports torch in the workers alone;
docs/benchmarks.md has the time that this saves.

Several private names of Ray are used here. Check them before you allow a new version of Ray.
"""

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
from beamclip.distributed.cluster import worker_resources

# Both as in Ray's own torch backend.
_PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)
_SHUTDOWN_SECONDS = 30
# See `_CleanerCallback.before_worker_group_start`.
_RESTART_DELAY_SECONDS = 2.0


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """Configuration of torch's process group.

    Attributes:
        backend: `gloo` on CPUs, `nccl` on GPUs.
    """

    backend: str = "gloo"

    @property
    def backend_cls(self) -> type["ProcessGroupBackend"]:
        """Class that sets up the process group."""
        return ProcessGroupBackend

    @property
    def train_func_context(self) -> type["_WorkerDevice"]:
        """Class of the context manager around the train function."""
        return _WorkerDevice


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Sets up and tears down torch's process group around the train function."""

    # As in Ray's torch backend: each worker sees the GPUs of all workers of the trial on its node,
    # and picks its own in `_set_cuda_device`.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Join all workers in a process group, with the rendezvous on rank 0's node."""
        try:
            address, port = worker_group.execute_single(0, _free_address)
            world_size = len(worker_group)
            pending = []
            # Start all ranks before waiting for any: each blocks until the others have joined.
            for rank in range(world_size):
                future = worker_group.execute_single_async(
                    rank,
                    _init_process_group,
                    backend=backend_config.backend,
                    address=address,
                    port=port,
                    world_rank=rank,
                    world_size=world_size,
                )
                pending.append(future)
            ray.get(pending)
        except Exception:
            _free_placement_group(worker_group)
            raise

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Leave the process group. Ray ends workers that hang."""
        pending = worker_group.execute_async(_destroy_process_group)
        ray.wait(pending, num_returns=len(worker_group), timeout=_SHUTDOWN_SECONDS)


def _free_address() -> tuple[str, int]:
    from ray.train._internal.utils import get_address_and_port

    address, port = get_address_and_port()
    return str(address), int(port)


def _free_placement_group(worker_group: Any) -> None:
    # Ray 2.60 forgets a worker group whose backend fails to start without freeing its placement
    # group, so that later trials would never get their resources.
    state = getattr(worker_group, "_worker_group_state", None)
    if state is not None:
        state.shutdown()


class _WorkerDevice:
    """Sets CUDA's current device around the train function.

    The current device is a property of the thread, and Train runs the train function in another
    thread than `_init_process_group`.
    """

    def __enter__(self) -> None:
        _set_cuda_device()

    def __exit__(self, *exception: object) -> None:
        return None


def _set_cuda_device() -> None:
    import torch

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        # The one of the node's GPUs that Ray gave to this worker.
        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)


def _init_process_group(
    *, backend: str, address: str, port: int, world_rank: int, world_size: int
) -> None:
    import torch.distributed as dist

    # NCCL uses the current device.
    _set_cuda_device()

    # The variables that torchrun sets. init_process_group reads the address and port from them.
    context = ray.train.get_context()
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(world_rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    # As Ray does: raise an error after a timeout of a collective operation.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(
        backend, rank=world_rank, world_size=world_size, timeout=_PROCESS_GROUP_TIMEOUT
    )


def _destroy_process_group() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class _Cleaner(PlacementGroupCleaner):  # type: ignore[misc]
    """Frees the placement group of a trial that was stopped from outside, as ASHA does.

    Ray's own cleaner asks the cluster whether the trial is still alive. For that it looks for a
    cluster on its machine, and dies if it finds two. Then the placement group is never freed, and
    the next trial waits for it forever. This one is told the cluster's address.
    """

    def start_monitoring(self) -> Any:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        return super().start_monitoring()


class _CleanerCallback(PlacementGroupCleanerCallback):  # type: ignore[misc]
    """Makes Train's controller, in whose process it runs, start our cleaner instead of Ray's."""

    _started = False

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Delay a restart of the workers, so that the controller of a stopped trial ends first.

        If a trial is stopped from outside, its workers die some tenths of a second before this
        controller does. In that time the controller would take a new placement group. No cleaner
        knows that group, so it would never be freed, and the next trial would wait forever.
        """
        if self._started:
            time.sleep(_RESTART_DELAY_SECONDS)
        self._started = True
        super().before_worker_group_start(worker_group_context)

    def after_controller_start(self, train_run_context: Any) -> None:
        # Ray's callback has no argument for the class: it takes the one in its own module.
        placement_group_callback.PlacementGroupCleaner = _Cleaner
        super().after_controller_start(train_run_context)


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """`DataParallelTrainer` with our cleaner and without Ray Data.

    Training reads no Ray datasets, and importing Ray Data takes a second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        replaced = (DatasetsCallback, PlacementGroupCleanerCallback)
        defaults = super()._create_default_callbacks()
        kept = [callback for callback in defaults if not isinstance(callback, replaced)]
        return [*kept, _CleanerCallback()]


def run_trial(experiment: Experiment, assets: str, folder: str) -> Any:
    """Train and evaluate one experiment with Ray Train, from inside a trial of Tune.

    Args:
        experiment: the trial's experiment.
        assets: its `beamclip.preparation.assets.Assets`, as JSON text.
        folder: folder or URI of all trials of the sweep.

    Returns:
        Ray's last checkpoint; None if none was written.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    # Hands the reports of rank 0 to Tune.
    reports = TuneReportCallback()
    trainer = build_trainer(experiment, assets, folder, [reports])
    try:
        result = trainer.fit()
    finally:
        _wait_until_delivered(reports)
    return result.checkpoint


def _wait_until_delivered(reports: Any) -> None:
    # A report goes from this queue to the only result slot of the trial's actor, from which Tune
    # fetches it. If the trial's function returns with a report on its way, the actor can block
    # forever.
    while not reports._training_actor_item_queue.empty():
        time.sleep(0.05)
    # The queue is empty as soon as the report is taken out. Give it time to reach the slot.
    time.sleep(0.3)


def build_trainer(
    experiment: Experiment, assets: str, folder: str, callbacks: list[Any]
) -> Trainer:
    """Build the trainer of the current trial.

    Args:
        experiment: the trial's experiment.
        assets: its `beamclip.preparation.assets.Assets`, as JSON text.
        folder: folder or URI of all trials of the sweep.
        callbacks: further callbacks of the Train run.
    """
    scaling = experiment.scaling
    use_gpu = scaling.gpus_per_worker > 0
    return Trainer(
        train_function,
        train_loop_config={"experiment": experiment.model_dump_json(), "assets": assets},
        backend_config=ProcessGroupConfig("nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=use_gpu,
            resources_per_worker=worker_resources(experiment),
        ),
        run_config=ray.train.RunConfig(
            # A restarted trial finds its checkpoints by this name.
            name=ray.tune.get_context().get_trial_id(),
            storage_path=folder,
            callbacks=callbacks,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=experiment.storage.keep_checkpoints
            ),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
    )


def train_function(config: dict[str, Any]) -> None:
    """Train and evaluate one experiment on a Train worker.

    Args:
        config: `experiment` and `assets` as JSON text.
    """
    import torch

    from beamclip.preparation.assets import Assets
    from beamclip.training.context import Context
    from beamclip.training.loop import TrainingDiverged
    from beamclip.training.worker import run_worker

    experiment = validate(Experiment, json.loads(config["experiment"]))
    if experiment.scaling.gpus_per_worker:
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
        # Other workers may run on the same node.
        torch.set_num_threads(max(1, int(experiment.scaling.cpus_per_worker)))
    train_context = ray.train.get_context()
    with _latest_checkpoint() as checkpoint:
        context = Context(
            rank=train_context.get_world_rank(),
            world_size=train_context.get_world_size(),
            device=device,
            report=_report,
            checkpoint=checkpoint,
        )
        try:
            run_worker(experiment, Assets.from_json(config["assets"]), context)
        except TrainingDiverged as error:
            # Train would retry after an error, and the retry would diverge again. So report the
            # failure instead, as all ranks do together. Train itself forgets reports without a
            # checkpoint, but `SweepCallback` receives this one through Tune.
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
