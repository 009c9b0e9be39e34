"""Write and read published results, each as an MLflow run with the tag `kind` = published."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from beamclip.tracking.client import database_lock, search_all

_KEY = "beamclip.published"
_TAGS = ("method", "dataset", "student", "teacher", "protocol")


@dataclass(frozen=True)
class PublishedResult:
    """One number from the literature.

    Attributes:
        key: unique name of the result.
        method: name of the method.
        top1: accuracy, in percent.
        dataset: data that the student was trained and evaluated on.
        student: backbone of the student.
        teacher: teacher of the student; "none" for methods without one.
        metric: MLflow key of the metric that `top1` is logged as.
        protocol: how the student was evaluated, as far as it is known.
        source: paper or code that states the number.
    """

    key: str
    method: str
    top1: float
    dataset: str
    student: str
    teacher: str
    metric: str
    protocol: str
    source: str


def load_published() -> list[PublishedResult]:
    """Return the results in `published.yaml`, best first."""
    file = resources.files("beamclip.tracking").joinpath("published.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    results = [PublishedResult(**(content["defaults"] | row)) for row in content["results"]]
    return sorted(results, key=lambda result: -result.top1)


def write_published(
    client: MlflowClient, experiment_id: str, results: Sequence[PublishedResult] | None = None
) -> int:
    """Write the results that an MLflow experiment doesn't have yet, each as its own run.

    Args:
        client: client of the tracking server.
        experiment_id: id of the experiment.
        results: results to write; default: all in `published.yaml`.

    Returns:
        Number of results written.
    """
    results = load_published() if results is None else results
    # Without the lock, two sweeps that start at once would both write them.
    with database_lock(client.tracking_uri):
        existing = {run.data.tags.get(_KEY) for run in read_published(client, experiment_id)}
        missing = [result for result in results if result.key not in existing]
        for result in missing:
            _write(client, experiment_id, result)
    return len(missing)


def read_published(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return one finished run for each published result of an experiment.

    A result may have several runs: two sweeps on a server may write it at the same time, and an
    interrupted sweep may leave a run unfinished.
    """
    runs_by_key = {}
    for run in search_all(client, experiment_id, "tags.kind = 'published'"):
        if run.info.status == "FINISHED":
            runs_by_key[run.data.tags.get(_KEY, run.info.run_id)] = run
    return list(runs_by_key.values())


def _write(client: MlflowClient, experiment_id: str, result: PublishedResult) -> None:
    """Write one result as a run. It counts only once its status is FINISHED, which comes last."""
    tags = {name: getattr(result, name) for name in _TAGS}
    tags["source"] = "published"
    tags["kind"] = "published"
    tags["reference"] = result.source
    tags[_KEY] = result.key
    run = client.create_run(experiment_id, tags=tags, run_name=f"{result.method} (published)")
    client.log_metric(run.info.run_id, result.metric, result.top1, step=0)
    client.set_terminated(run.info.run_id, "FINISHED")
