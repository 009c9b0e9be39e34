"""Process shards of images on a cluster, with a Ray Data pool of actors.

Only shard numbers travel through Ray, never pixels: each actor reads, works and writes by itself.
So memory does not grow with the data. Ray Data scales the pool between its smallest and largest
size, gives the shards of an actor that died to another one, and yields each shard as it is
finished.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from beamclip.config import UserError
from beamclip.stores import Job, full_disk_as_user_error

# Beyond this many threads, a second process gains more than further threads do.
_CORES_PER_TEACHER = 4


@dataclass(frozen=True)
class PoolSize:
    """Number of actors in a pool, and the resources of each.

    Attributes:
        min_size: smallest number of actors.
        max_size: largest number of actors.
        num_cpus: CPUs of an actor.
        num_gpus: GPUs of an actor.
    """

    min_size: int
    max_size: int
    num_cpus: float
    num_gpus: float

    @property
    def threads(self) -> int:
        """Number of threads an actor may use."""
        return max(1, int(self.num_cpus))


def pool_size(
    on_device: bool, resources: dict[str, float], actors: tuple[int, int] | None = None
) -> PoolSize:
    """Return the size of the pool for a job.

    Args:
        on_device: whether the job wants GPUs, see `Job.on_device`.
        resources: CPU and GPU of the cluster.
        actors: `teacher.actors`, the smallest and largest number of actors of an on-device job.
            None allows one actor per GPU, or one per four CPUs if there are no GPUs, and starts
            with one.
    """
    cpus = max(1, int(resources.get("CPU", 1)))
    gpus = int(resources.get("GPU", 0))
    if not on_device:
        # Start all actors at once: a short pass would wait for actors that are started later.
        return PoolSize(cpus, cpus, 1, 0)
    if actors is not None:
        min_size, max_size = actors
    else:
        min_size = 1
        max_size = gpus or max(1, cpus // _CORES_PER_TEACHER)
    if not gpus:
        # Without GPUs the actors share all CPUs.
        return PoolSize(min_size, max_size, max(1, cpus // max_size), 0)
    cpus_per_actor = max(1, min(_CORES_PER_TEACHER, cpus // max(max_size, 1)))
    return PoolSize(min_size, max_size, cpus_per_actor, 1)


class ClusterRunner:
    """A `Runner` that uses the cluster this process is connected to.

    Args:
        resources: CPU and GPU of the cluster, counting what an autoscaler may add; default what it
            has now.
        actors: `teacher.actors`, see `pool_size`.
    """

    def __init__(
        self, resources: dict[str, float] | None = None, actors: tuple[int, int] | None = None
    ) -> None:
        self._resources = resources or dict(ray.cluster_resources())
        self._actors = actors

    def __call__(self, job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        """Write these shards of a job into a folder, and yield each as it is finished.

        Raises:
            UserError: an actor raised one, with the same message.
        """
        if not shards:
            return
        size = pool_size(job.on_device, self._resources, self._actors)
        for row in _write_shards(job, shards, folder, size).iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield int(row["shard"])


def _write_shards(job: Job, shards: Sequence[int], folder: Path, size: PoolSize) -> Any:
    """Return a lazy Ray dataset with a row for each shard: its number and its error, or ""."""
    import ray.data

    context = ray.data.DataContext.get_current()
    # `beamclip` shows its own progress bar, with the rate and the time left.
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # One shard per block, so that each is scheduled and yielded on its own.
    rows = ray.data.from_items(
        [{"shard": index} for index in shards], override_num_blocks=len(shards)
    )
    concurrency: dict[str, Any] = {}
    if not job.on_device:
        # Work on two shards at once: one is decoded while the other is written to disk.
        concurrency = {"enable_true_multi_threading": True, "max_concurrent_calls_per_actor": 2}
    actors = ray.data.ActorPoolStrategy(
        min_size=min(size.min_size, len(shards)),
        max_size=min(size.max_size, len(shards)),
        **concurrency,
    )
    return rows.map_batches(
        _ShardWriter,
        fn_constructor_args=(job, str(folder), size.threads),
        batch_size=1,
        compute=actors,
        num_cpus=size.num_cpus,
        num_gpus=size.num_gpus or None,
    )


class _ShardWriter:
    """An actor of the pool. It opens the job once, then writes the shards it is given.

    The message of a UserError is returned as a value, because Ray Data wraps exceptions into long
    texts.
    """

    def __init__(self, job: Job, folder: str, threads: int) -> None:
        self._folder = Path(folder)
        self._open_error = ""
        try:
            self._write = job.open(self._folder, threads)
        except UserError as error:
            self._open_error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        errors = []
        for index in batch["shard"].tolist():
            errors.append(self._open_error or self._write_shard(index))
        return {"shard": batch["shard"], "error": errors}

    def _write_shard(self, index: int) -> str:
        try:
            with full_disk_as_user_error(self._folder):
                self._write(index)
        except UserError as error:
            return str(error)
        return ""


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the UserError inside the exceptions that Ray wrapped around it, or None."""
    # Chains of causes may have cycles.
    visited = set[int]()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        # Look at the cause first: Ray wraps a UserError in an exception that is an instance of
        # UserError as well, but with Ray's own text.
        cause = getattr(error, "cause", None)
        if cause is None and isinstance(error, UserError):
            return UserError(str(error))
        error = cause or error.__cause__ or error.__context__
    return None
