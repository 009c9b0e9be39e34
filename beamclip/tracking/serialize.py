"""What is written into a run: params, metric points, and where the run came from. No server needed here."""

import csv
import io
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Metric, Param
from pydantic import BaseModel

from beamclip.config import Experiment, Sweep, flatten, trial_count
from beamclip.config.provenance import without_passwords

# Short names for settings, for run names, table heads and axes.


_LONG_NUMBER = 7
_SYMBOLS = {"objective.teacher_temperature": "τ_T", "objective.student_temperature": "τ_S"}


def short_names(keys: Iterable[str], symbols: bool = True) -> dict[str, str]:
    """Dotted key -> symbol or last part; two parts where the last one alone would name two keys."""
    keys = list(keys)
    leaves, known = Counter(_leaf(key) for key in keys), _SYMBOLS if symbols else {}
    return {
        key: known.get(key) or (_leaf(key) if leaves[_leaf(key)] == 1 else _leaf(key, 2))
        for key in keys
    }


def run_name(values: Mapping[str, Any]) -> str:
    """`{"objective.teacher_temperature": 0.05}` -> `τ_T=0.05`; `base` where nothing varies. At most 200 characters."""
    names = short_names(values)
    return (
        " ".join(f"{names[key]}={short_value(value)}" for key, value in values.items())[:200]
        or "base"
    )


def short_value(value: Any) -> str:
    """Floats with four digits, anything else as it is written."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_number(text: str) -> bool:
    """Whether a value is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def digits(text: str) -> str:
    """A value as it is shown: a long number with four digits, anything else as it is."""
    return f"{float(text):.4g}" if len(text) > _LONG_NUMBER and is_number(text) else text


def _leaf(key: str, parts: int = 1) -> str:
    return ".".join(key.split(".")[-parts:])


PARAMS_A_BATCH, METRICS_A_BATCH, PARAM_LENGTH, TAG_LENGTH = (
    100,
    1000,
    6000,
    8000,
)  # MLflow's own limits
Point = tuple[str, float, int, int]
"""Key, value, step, Unix time in ms."""
Item = TypeVar("Item")
VARIED = "varied"

_TAG_KEYS = {
    "method": ("objective.name",),
    "dataset": ("data.source", "data.path"),
    "teacher": ("teacher.model", "teacher.pretrained"),
    "student": ("student.backbone",),
    "prompt_set": ("anchors.prompt_set",),
}


def describe(experiment: Experiment) -> dict[str, str]:
    """The tags by which runs are compared."""
    data, teacher = experiment.data, experiment.teacher
    return {
        "method": experiment.objective.name,
        "dataset": data.source
        if data.path is None or data.source.startswith("cifar")
        else Path(data.path).name,
        "teacher": f"{teacher.model} {teacher.pretrained}" if teacher.pretrained else teacher.model,
        "student": experiment.student.backbone,
        "prompt_set": experiment.anchors.prompt_set,
    }


def sweep_tags(sweep: Sweep, base: Experiment, sweep_id: str) -> dict[str, str]:
    """What a sweep and all its children are tagged with; `varied` where the trials differ."""
    described = describe(base).items()
    tags = {
        tag: VARIED if set(_TAG_KEYS[tag]) & set(sweep.varied) else value
        for tag, value in described
    }
    tags |= {"source": "measured", "question": sweep.question or "-", "beamclip.sweep_id": sweep_id}
    return tags | provenance()


def params(settings: BaseModel) -> dict[str, str]:
    """The flattened settings as MLflow takes them: plain keys, values as text."""
    return {
        _plain_key(key): _text(value)
        for key, value in flatten(settings.model_dump(mode="json")).items()
    }


def space_params(sweep: Sweep) -> dict[str, str]:
    """`space.KEY` for every dimension, `variant.NAME` for every variant's settings, and how it is searched."""
    space = {
        f"space.{_plain_key(key)}": _text(d.model_dump(mode="json"))
        for key, d in sweep.space.items()
    }
    variants = {
        f"variant.{_plain_key(name)}": _text(settings) for name, settings in sweep.variants.items()
    }
    return (
        space
        | variants
        | {
            "sweep.search": sweep.search,
            "sweep.seed": str(sweep.seed),
            "sweep.metric": sweep.metric,
            "sweep.trials": str(trial_count(sweep)),
        }
    )


def _plain_key(key: str) -> str:
    return re.sub(r"[^\w./\- :]", "_", key)[:250]


def _text(value: Any) -> str:
    text = without_passwords(
        json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    )
    return text if len(text) <= PARAM_LENGTH else f"{text[: PARAM_LENGTH - 1]}…"


def param_batches(values: Mapping[str, str]) -> Iterator[list[Param]]:
    """In lots of a size that MLflow takes."""
    return _batches([Param(key, value) for key, value in values.items()], PARAMS_A_BATCH)


def metric_batches(points: Iterable[Point]) -> Iterator[list[Metric]]:
    """In lots of a size that MLflow takes."""
    return _batches(
        [Metric(key, float(value), at, step) for key, value, step, at in points], METRICS_A_BATCH
    )


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def split_finite(points: Iterable[Point]) -> tuple[list[Point], list[Point]]:
    """Finite points and the others. MLflow's databases keep +inf as 1.8e308, which then is the best run of all."""
    points = list(points)
    return [p for p in points if math.isfinite(p[1])], [
        p for p in points if not math.isfinite(p[1])
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header of every key in order of appearance, then the rows; a missing value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@cache
def provenance() -> dict[str, str]:
    """Tags `versions` and, in a git checkout, `git_revision`: the commit, `-dirty` with uncommitted changes."""
    names = ("beamclip", "torch", "timm", "open_clip_torch", "ray", "mlflow")
    versions = {
        "versions": ", ".join(f"{name} {found}" for name in names if (found := _version(name)))
    }
    revision = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return versions | (
        {"git_revision": revision} if revision and _git("ls-files", "__init__.py") else {}
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    """Empty where there is no git or no checkout, as in an installed package or a Ray job's copy."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
