"""Convert settings and results into MLflow's params, metrics and tags. Needs no server."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Metric, Param
from pydantic import BaseModel

from beamclip.config import Experiment, Sweep, flatten, trial_count
from beamclip.config.provenance import git_revision, versions, without_passwords

MetricPoint = tuple[str, float, int, int]
"""Key, value, step, Unix time in ms."""
Item = TypeVar("Item")

VARIED = "varied"
"""Tag of a sweep for a setting in which its trials differ."""

# MLflow's own limits.
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000

_MAX_RUN_NAME_LENGTH = 200
_MAX_KEY_LENGTH = 250
_LONG_NUMBER = 7
_SYMBOLS = {"objective.teacher_temperature": "τ_T", "objective.student_temperature": "τ_S"}
_TAG_KEYS = {
    "method": ("objective.name",),
    "dataset": ("data.source", "data.path"),
    "teacher": ("teacher.model", "teacher.pretrained"),
    "student": ("student.backbone",),
    "prompt_set": ("anchors.prompt_set",),
}
_PACKAGES = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow")


def short_names(keys: Iterable[str], symbols: bool = True) -> dict[str, str]:
    """Return a short name for each dotted key, for run names, column heads and axes.

    Args:
        keys: dotted keys of settings.
        symbols: use symbols such as τ_T where there are any.

    Returns:
        Dotted key -> its symbol, else its last part, or its last two parts if several keys end
        alike.
    """
    keys = list(keys)
    counts = Counter(_last_parts(key, 1) for key in keys)
    names = {}
    for key in keys:
        if symbols and key in _SYMBOLS:
            names[key] = _SYMBOLS[key]
        else:
            is_unique = counts[_last_parts(key, 1)] == 1
            names[key] = _last_parts(key, 1 if is_unique else 2)
    return names


def _last_parts(key: str, count: int) -> str:
    return ".".join(key.split(".")[-count:])


def run_name(values: Mapping[str, Any]) -> str:
    """Return the name of a trial's run, at most 200 characters; `base` if nothing varies.

    Example:
        >>> run_name({"objective.teacher_temperature": 0.05, "seed": 1})
        'τ_T=0.05 seed=1'
    """
    names = short_names(values)
    name = " ".join(f"{names[key]}={short_value(value)}" for key, value in values.items())
    return name[:_MAX_RUN_NAME_LENGTH] or "base"


def short_value(value: Any) -> str:
    """Return a value as text, floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def shorten_number(text: str) -> str:
    """Return a number of more than 7 characters with four significant digits, else the text."""
    return f"{float(text):.4g}" if len(text) > _LONG_NUMBER and is_number(text) else text


def describe(experiment: Experiment) -> dict[str, str]:
    """Return the tags by which runs are compared: method, dataset, teacher, student, prompt set."""
    data = experiment.data
    teacher = experiment.teacher
    # CIFAR is one data set in any folder; other sources are named after their folder.
    is_named_by_source = data.path is None or data.source.startswith("cifar")
    dataset = data.source if is_named_by_source else Path(str(data.path)).name
    return {
        "method": experiment.objective.label,
        "dataset": dataset,
        "teacher": f"{teacher.model} {teacher.pretrained}" if teacher.pretrained else teacher.model,
        "student": experiment.student.backbone,
        "prompt_set": experiment.anchors.prompt_set,
    }


def sweep_tags(sweep: Sweep, base: Experiment, sweep_id: str) -> dict[str, str]:
    """Return the tags of a sweep and of all its children; `varied` where its trials differ."""
    tags = describe(base)
    for tag, keys in _TAG_KEYS.items():
        if set(keys) & set(sweep.varied):
            tags[tag] = VARIED
    tags["source"] = "measured"
    tags["question"] = sweep.question or "-"
    tags["beamclip.sweep_id"] = sweep_id
    return tags | version_tags()


@cache
def version_tags() -> dict[str, str]:
    """Return the tags `versions` and, in a git checkout of beamclip, `git_revision`."""
    installed = versions()
    listed = [f"{name} {installed[name]}" for name in _PACKAGES if installed[name] != "none"]
    tags = {"versions": ", ".join(listed)}
    revision = git_revision()
    if revision != "none":
        tags["git_revision"] = revision
    return tags


def settings_params(settings: BaseModel) -> dict[str, str]:
    """Return flattened settings as MLflow's params: keys without special characters, text.

    The text of users' objectives is left out: it is in the artifact `config.yaml`.
    """
    flat = flatten(settings.model_dump(mode="json"))
    return {
        _param_key(key): _param_value(value)
        for key, value in flat.items()
        if not key.startswith("objective.code")
    }


def space_params(sweep: Sweep) -> dict[str, str]:
    """Return a sweep's space as params: `space.KEY`, `variant.NAME`, and how it is searched."""
    params = {}
    for key, dimension in sweep.space.items():
        params[f"space.{_param_key(key)}"] = _param_value(dimension.model_dump(mode="json"))
    for name, settings in sweep.variants.items():
        params[f"variant.{_param_key(name)}"] = _param_value(settings)
    params["sweep.search"] = sweep.search
    params["sweep.seed"] = str(sweep.seed)
    params["sweep.metric"] = sweep.metric
    params["sweep.trials"] = str(trial_count(sweep))
    return params


def _param_key(key: str) -> str:
    return re.sub(r"[^\w./\- :]", "_", key)[:_MAX_KEY_LENGTH]


def _param_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    text = without_passwords(text)
    return text if len(text) <= MAX_PARAM_LENGTH else f"{text[: MAX_PARAM_LENGTH - 1]}…"


def param_batches(params: Mapping[str, str]) -> Iterator[list[Param]]:
    """Yield params in batches of the size that MLflow accepts."""
    return _batches([Param(key, value) for key, value in params.items()], MAX_PARAMS_PER_BATCH)


def metric_batches(points: Iterable[MetricPoint]) -> Iterator[list[Metric]]:
    """Yield metrics in batches of the size that MLflow accepts."""
    metrics = [Metric(key, float(value), time, step) for key, value, step, time in points]
    return _batches(metrics, MAX_METRICS_PER_BATCH)


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def split_finite(points: Iterable[MetricPoint]) -> tuple[list[MetricPoint], list[MetricPoint]]:
    """Return the finite points and the others.

    MLflow's databases store +inf as 1.8e308, which would then be the best run of all.
    """
    finite: list[MetricPoint] = []
    others: list[MetricPoint] = []
    for point in points:
        (finite if math.isfinite(point[1]) else others).append(point)
    return finite, others


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with all keys in order of appearance; missing values are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
