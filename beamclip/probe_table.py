"""The table that `beamclip evaluate` prints: a row for each way a model was judged, on its own data and on others."""

from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Table

from beamclip.evaluation import Evaluation

_NAMES = {"linear_probe": "linear probe", "knn": "k-NN", "zero_shot": "zero-shot"}


def probe_table(title: str, judged: Mapping[str, Evaluation]) -> Table:
    """Per cent; 95 % intervals are over test images, those of few-shot rows over draws.

    Args:
        judged: name of the data -> what was found on it.
    """
    table = Table("judged by", title=escape(title), title_justify="left", caption_justify="left")
    if any(key.startswith("few_shot/") for one in judged.values() for key in one.metrics):
        table.caption = "95 %: over test images; of N-shot probes over draws of the N images a class"
    for column in ("val", "test", "95 %", "top-5", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in judged.items():
        images = sum(row["images"] for row in one.details["linear_probe"]["per_class"])
        table.add_section()
        table.add_row(escape(f"{name}, {images:,} test images"))
        for row in _rows(one):
            table.add_row(*row)
    return table


def notes(judged: Mapping[str, Evaluation]) -> list[str]:
    """What was asked for and could not be done, on each of the data sets.

    Args:
        judged: name of the data -> what was found on it.
    """
    missing = ((name, one) for name, evaluation in judged.items() for one in evaluation.details["few_shot"] if one["note"])
    return [f"{name}, {one['images_per_class']} images a class: left out, {one['note']}" for name, one in missing]


def _rows(evaluation: Evaluation) -> Iterator[list[str]]:
    metrics = evaluation.metrics
    for key, name in _NAMES.items():
        if f"{key}/test_top1" in metrics:
            name = f"{name}, k = {metrics['knn/k']:.0f}" if key == "knn" else name
            yield [f"  {name}", _number(metrics, f"{key}/val_top1"), *_tested(metrics, f"{key}/test_top1")] + [
                _number(metrics, f"{key}/test_{one}") for one in ("top5", "ece")
            ]
    for one in evaluation.details["few_shot"]:
        if not one["note"]:
            count = one["images_per_class"]
            yield [f"  {count}-shot probe", "", *_tested(metrics, f"few_shot/{count}_top1"), "", ""]


def _tested(metrics: Mapping[str, float], key: str) -> list[str]:
    low, high = (_number(metrics, f"{key}_{end}") for end in ("low", "high"))
    return [_number(metrics, key), f"{low}–{high}" if low else ""]


def _number(metrics: Mapping[str, float], key: str) -> str:
    return f"{metrics[key]:.2f}" if key in metrics else ""
