"""Passes over all images on a cluster: shards stream through a Ray Data pool of actors that write them where they belong.

What travels through Ray are the numbers of shards, never pixels: an actor reads, works and writes by itself, so memory stays the
same however large the data. Ray Data starts and stops actors between a least and a most, hands the shards of one that died to
another, and tells us of each that is finished.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from beamclip.config import UserError
from beamclip.stores import Job, disk_may_be_full

_CORES_A_TEACHER = 4  # more threads than these help one process less than a second process does


@dataclass(frozen=True)
class Pool:
    """How many processes do a kind of work, and what each gets."""

    least: int
    most: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Threads each may use."""
        return max(1, int(self.cpus))


def pool_for(
    on_device: bool, resources: dict[str, float], wanted: tuple[int, int] | None = None
) -> Pool:
    """The pool for a job on a cluster.

    Args:
        on_device: see `Job.on_device`.
        resources: CPU and GPU of the cluster.
        wanted: `teacher.actors`, fewest and most.
    """
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    if not on_device:
        return Pool(cpus, cpus, 1, 0)  # all at once: it is a start that a short pass waits for
    most = gpus or max(1, cpus // _CORES_A_TEACHER)
    least, most = wanted or (1, most)
    if gpus:
        return Pool(least, most, max(1, min(_CORES_A_TEACHER, cpus // max(most, 1))), 1)
    return Pool(least, most, max(1, cpus // most), 0)


class ClusterRunner:
    """A `Runner` that uses the cluster this process has joined.

    Args:
        resources: what the cluster can give; default what it has now. An autoscaler may bring more.
        actors: `teacher.actors`.
    """

    def __init__(
        self, resources: dict[str, float] | None = None, actors: tuple[int, int] | None = None
    ) -> None:
        self._resources, self._actors = resources or dict(ray.cluster_resources()), actors

    def __call__(self, job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        """Have these shards written, and yield each as it is finished.

        Raises:
            UserError: as one sentence, whatever process it came from.
        """
        if not shards:
            return
        for row in _pipeline(
            job, shards, folder, pool_for(job.on_device, self._resources, self._actors)
        ).iter_rows():
            if row["said"]:
                raise UserError(row["said"])
            yield int(row["shard"])


def _pipeline(job: Job, shards: Sequence[int], folder: Path, pool: Pool) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours shows rate and time left
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = ray.data.from_items(
        [{"shard": index} for index in shards], override_num_blocks=len(shards)
    )
    # Two shards at once in each process where the processor does the work: one is decoded while the other goes to the disk.
    threads = (
        {}
        if job.on_device
        else {"enable_true_multi_threading": True, "max_concurrent_calls_per_actor": 2}
    )
    actors = ray.data.ActorPoolStrategy(
        min_size=min(pool.least, len(shards)), max_size=min(pool.most, len(shards)), **threads
    )
    return rows.map_batches(
        _Writer,
        fn_constructor_args=(job, str(folder), pool.threads),
        batch_size=1,
        compute=actors,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )


class _Writer:
    """One actor of the pool: opens the job once, then writes the shards it is given.

    What it has to say to the user travels as a value: Ray Data turns exceptions into their texts.
    """

    def __init__(self, job: Job, folder: str, threads: int) -> None:
        self._folder, self._said = Path(folder), ""
        try:
            self._write = job.open(self._folder, threads)
        except UserError as error:
            self._said = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "shard": batch["shard"],
            "said": [self._said or self._one(index) for index in batch["shard"].tolist()],
        }

    def _one(self, index: int) -> str:
        try:
            with disk_may_be_full(self._folder):
                self._write(index)
        except UserError as error:
            return str(error)
        return ""


def user_error_in(error: BaseException | None) -> UserError | None:
    """The sentence for the user inside what Ray wrapped around it, if there is one."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(
            error, "cause", None
        )  # first: Ray's wrapping of a UserError is one too, with a text of its own
        if inner is None and isinstance(error, UserError):
            return UserError(str(error))
        error = inner or error.__cause__ or error.__context__
    return None
