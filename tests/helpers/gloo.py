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

# One clean process imports torch and ours once, and every worker is a fork of it: cheap, and it shares no state with the tests.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "torch.distributed", "torch.nn.parallel", "timm", "beamclip.training.worker"]
)


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(rank, count, *arguments)` in each process. Returns the results by rank; the first exception is raised here.

    function: at the top level of a module.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(count, mp_context=_SERVER) as pool,
    ):
        meeting_point = f"file://{Path(folder) / 'meet'}"
        # Pickled by ourselves: torch would send tensors as handles that die with their process.
        content = pickle.dumps((function, arguments))
        futures = [
            pool.submit(_worker, rank, count, meeting_point, content) for rank in range(count)
        ]
        for future in as_completed(futures):
            future.result()  # the others only lose their connection to the one that failed first
        return [pickle.loads(future.result()) for future in futures]


def _worker(rank: int, count: int, meeting_point: str, content: bytes) -> bytes:
    torch.set_num_threads(1)
    function, arguments = pickle.loads(content)
    dist.init_process_group(
        "gloo",
        init_method=meeting_point,
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=60),
    )
    try:
        return pickle.dumps(function(rank, count, *arguments))
    finally:
        dist.destroy_process_group()
