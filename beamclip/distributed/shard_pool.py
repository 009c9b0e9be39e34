"""Work through shards of images on a cluster, with a Ray Data pool of actors.

Only the numbers of shards travel through Ray, never pixels: an actor reads, works and writes by
itself, so that memory stays the same however large the data is. Ray Data scales the pool between
a smallest and a largest size, gives the shards of an actor that died to another one, and yields
each shard as it is finished.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from beamclip.config import UserError
from beamclip.stores import Job, full_disk_as_user_error

# With more threads than these, a second process gains more than further threads do.
_CORES_PER_TEACHER = 4


@dataclass(frozen=True)
class PoolSize:
    """Number of actors in a pool, and the resources of each."""

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
        actors: `teacher.actors`, the smallest and largest number of actors of an on-device job;
            default one, and one for each GPU or for every four CPUs.
    """
    cpus = max(1, int(resources.get("CPU", 1)))
    gpus = int(resources.get("GPU", 0))
    if not on_device:
        # All actors start at once: a short pass would wait for those started later.
        return PoolSize(cpus, cpus, 1, 0)
    min_size, max_size = actors or (1, gpus or max(1, cpus // _CORES_PER_TEACHER))
    if not gpus:
        return PoolSize(min_size, max_size, max(1, cpus // max_size), 0)
    cpus_per_actor = max(1, min(_CORES_PER_TEACHER, cpus // max(max_size, 1)))
    return PoolSize(min_size, max_size, cpus_per_actor, 1)


class ClusterRunner:
    """A `Runner` that uses the cluster this process is connected to.

    Args:
        resources: what the cluster can give; default what it has now. An autoscaler may add more.
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
    # Our own bar shows the rate and the time left.
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = ray.data.from_items(
        [{"shard": index} for index in shards], override_num_blocks=len(shards)
    )
    concurrency: dict[str, Any] = {}
    if not job.on_device:
        # CPU jobs work on two shards at once: one is decoded while the other goes to the disk.
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
    """An actor of the pool: it opens the job once, then writes the shards it is given.

    A UserError's message travels as a value, because Ray Data turns exceptions into long texts.
    """

    def __init__(self, job: Job, folder: str, threads: int) -> None:
        self._folder = Path(folder)
        self._open_error = ""
        try:
            self._write = job.open(self._folder, threads)
        except UserError as error:
            self._open_error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        errors = [self._open_error or self._write_shard(index) for index in batch["shard"].tolist()]
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
    visited = set[int]()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        # Look at the cause first: the exception in which Ray wraps a UserError is itself an
        # instance of UserError, with Ray's own text.
        cause = getattr(error, "cause", None)
        if cause is None and isinstance(error, UserError):
            return UserError(str(error))
        error = cause or error.__cause__ or error.__context__
    return None
