"""Published results, to stand beside the measured ones: marked as published, below no measured sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from beamclip.tracking.client import alone, search_all

_KEY = "beamclip.published"


@dataclass(frozen=True)
class PublishedResult:
    """One number from the literature, in per cent."""

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
    """The results in `published.yaml`, best first."""
    text = (
        resources.files("beamclip.tracking").joinpath("published.yaml").read_text(encoding="utf-8")
    )
    tree: dict[str, Any] = yaml.safe_load(text)
    return sorted(
        (PublishedResult(**(tree["defaults"] | row)) for row in tree["results"]),
        key=lambda r: -r.top1,
    )


def write_published(
    client: MlflowClient, experiment_id: str, results: Sequence[PublishedResult] | None = None
) -> int:
    """Write those results that the experiment does not hold yet. Returns how many were written."""
    with alone(client.tracking_uri):
        there = {run.data.tags.get(_KEY) for run in read_published(client, experiment_id)}
        missing = [
            result
            for result in (load_published() if results is None else results)
            if result.key not in there
        ]
        for result in missing:
            _write(client, experiment_id, result)
    return len(missing)


def read_published(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The results that the experiment holds, each once: two sweeps may have written them at once, and one may have been cut off."""
    runs = search_all(client, experiment_id, "tags.kind = 'published'")
    return list(
        {
            run.data.tags.get(_KEY, run.info.run_id): run
            for run in runs
            if run.info.status == "FINISHED"
        }.values()
    )


def _write(client: MlflowClient, experiment_id: str, result: PublishedResult) -> None:
    tags = {
        name: getattr(result, name)
        for name in ("method", "dataset", "student", "teacher", "protocol")
    }
    tags |= {
        "source": "published",
        "kind": "published",
        "reference": result.source,
        _KEY: result.key,
    }
    run = client.create_run(experiment_id, tags=tags, run_name=f"{result.method} (published)")
    client.log_metric(run.info.run_id, result.metric, result.top1, step=0)
    client.set_terminated(run.info.run_id, "FINISHED")
