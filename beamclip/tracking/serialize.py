"""Convert settings and results into MLflow's params, metrics and tags. Needs no server."""

import csv
import io
import json
import math
import posixpath
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
"""Value of a tag on a sweep's run if the setting differs between the trials."""

# MLflow's own limits.
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000

_MAX_RUN_NAME_LENGTH = 200
_MAX_KEY_LENGTH = 250
# Numbers with more characters, such as 0.012345678, are shortened in labels.
_LONG_NUMBER = 7
_SYMBOLS = {"objective.teacher_temperature": "τ_T", "objective.student_temperature": "τ_S"}
# Tag -> the settings that decide its value.
_TAG_KEYS = {
    "method": ("objective.name",),
    "dataset": ("data.source", "data.path"),
    "teacher": ("teacher.model", "teacher.pretrained"),
    "student": ("student.backbone",),
    "prompt_set": ("anchors.prompt_set",),
}
# Packages whose versions the tag `versions` lists.
_PACKAGES = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow")


def short_names(keys: Iterable[str], symbols: bool = True) -> dict[str, str]:
    """Return a short name for each dotted key, for run names, column heads and axes.

    Args:
        keys: dotted keys of settings.
        symbols: True to use τ_T and τ_S for the temperatures.

    Returns:
        Dotted key -> its symbol, or its last part, or its last two parts if several keys have the
        same last part.
    """
    keys = list(keys)
    last_part_counts = Counter(key.split(".")[-1] for key in keys)
    names = {}
    for key in keys:
        parts = key.split(".")
        if symbols and key in _SYMBOLS:
            names[key] = _SYMBOLS[key]
        elif last_part_counts[parts[-1]] == 1:
            names[key] = parts[-1]
        else:
            names[key] = ".".join(parts[-2:])
    return names


def run_name(values: Mapping[str, Any]) -> str:
    """Return the name of a trial's run, of at most 200 characters; "base" if nothing varies.

    Args:
        values: the trial's value of each varied setting, by dotted key.

    Example:
        >>> run_name({"objective.teacher_temperature": 0.05, "seed": 1})
        'τ_T=0.05 seed=1'
    """
    names = short_names(values)
    name = " ".join(f"{names[key]}={short_value(value)}" for key, value in values.items())
    return name[:_MAX_RUN_NAME_LENGTH] or "base"


def short_value(value: Any) -> str:
    """Return a value as text; a float has at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_number(text: str) -> bool:
    """Return True if a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def shorten_number(text: str) -> str:
    """Return the text, with four significant digits if it is a number of more than 7 characters."""
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
    """Return the tags of a sweep's run, which its children inherit.

    A tag has the value "varied" if the sweep varies one of the settings that decide it.
    """
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
    """Return flattened settings as MLflow params: dotted key -> value as text.

    Keys and values are made to fit MLflow's limits. The code of a user's own objective is left out;
    it is in the artifact `config.yaml`.
    """
    flat = flatten(settings.model_dump(mode="json"))
    return {
        _param_key(key): _param_value(value)
        for key, value in flat.items()
        if key != "objective.code" and not key.startswith("objective.code.")
    }


def space_params(sweep: Sweep) -> dict[str, str]:
    """Return a sweep's search as MLflow params: `space.KEY`, `variant.NAME` and `sweep.*`."""
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
    """Return a key with only the characters, and the length, that MLflow accepts.

    MLflow also refuses keys that a file system would shorten, such as `anchors.senses.crane/`.
    """
    accepted = re.sub(r"[^\w./\- :]", "_", key)[:_MAX_KEY_LENGTH]
    if posixpath.normpath(accepted) == accepted:
        return accepted
    return accepted.replace("/", "_")


def _param_value(value: Any) -> str:
    """Return a value as text without passwords, cut to the length that MLflow accepts."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    text = without_passwords(text)
    return text if len(text) <= MAX_PARAM_LENGTH else f"{text[: MAX_PARAM_LENGTH - 1]}…"


def param_batches(params: Mapping[str, str]) -> Iterator[list[Param]]:
    """Yield params in batches that are no larger than MLflow accepts."""
    items = [Param(key, value) for key, value in params.items()]
    return _batches(items, MAX_PARAMS_PER_BATCH)


def metric_batches(points: Iterable[MetricPoint]) -> Iterator[list[Metric]]:
    """Yield metrics in batches that are no larger than MLflow accepts."""
    metrics = [Metric(key, float(value), time, step) for key, value, step, time in points]
    return _batches(metrics, MAX_METRICS_PER_BATCH)


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def split_finite(points: Iterable[MetricPoint]) -> tuple[list[MetricPoint], list[MetricPoint]]:
    """Return the points with a finite value, and the others.

    MLflow's databases store +inf as 1.8e308, so a run with inf would be ranked above all others.
    """
    finite: list[MetricPoint] = []
    others: list[MetricPoint] = []
    for point in points:
        if math.isfinite(point[1]):
            finite.append(point)
        else:
            others.append(point)
    return finite, others


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV. Columns are in order of appearance; missing values are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
