"""Run a function in several processes joined by gloo, as DDP workers are."""

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# One clean process imports torch and beamclip once, and all workers are forks of it: that is
# cheap, and they share no state with the tests.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "torch.distributed", "torch.nn.parallel", "timm", "beamclip.training.worker"]
)


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(rank, count, *arguments)` in each process.

    Args:
        count: number of processes.
        function: a function at the top level of a module.
        arguments: passed on to each process.

    Returns:
        The results by rank. The first exception is raised here.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(count, mp_context=_SERVER) as pool,
    ):
        init_method = f"file://{Path(folder) / 'rendezvous'}"
        # Pickled here: torch would send tensors as handles that die with their process.
        call = pickle.dumps((function, arguments))
        futures = [pool.submit(_worker, rank, count, init_method, call) for rank in range(count)]
        for future in as_completed(futures):
            # The first to fail raises; the others only lose their connection to it.
            future.result()
        return [pickle.loads(future.result()) for future in futures]


def _worker(rank: int, count: int, init_method: str, call: bytes) -> bytes:
    torch.set_num_threads(1)
    function, arguments = pickle.loads(call)
    dist.init_process_group(
        "gloo",
        init_method=init_method,
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=60),
    )
    try:
        return pickle.dumps(function(rank, count, *arguments))
    finally:
        dist.destroy_process_group()
