"""DDP workers under Ray Train without torch in the processes that only steer.

Ray's `TorchTrainer` is `DataParallelTrainer` with a torch backend whose module imports torch, so that the trial's driver and
Train's controller each pay for an import they never use. This backend does the same work and imports torch in the workers alone.
What that saves is in docs/benchmarks.md.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

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
            join = {"backend": backend_config.backend, "address": address, "port": port, "world_size": size}
            ray.get([worker_group.execute_single_async(i, _join, world_rank=i, **join) for i in range(size)])
        except Exception:
            _release(worker_group)
            raise

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Leave in order; workers that hang are ended by Ray anyway."""
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=_SHUTDOWN_SECONDS)


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
