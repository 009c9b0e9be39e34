"""What the chosen student gets wrong: classes it takes for others, and images on which its teacher says something else."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from beamclip.config import UserError
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.reporting.page import Section, Shown
from beamclip.reporting.sources import Ids, Stores, jpeg_of, teacher_predictions
from beamclip.reporting.tables import Line, Sheet
from beamclip.tracking import Artifacts

_PAIRS, _IMAGES = 15, 8
_CASES = {
    "the student is right, the teacher is not": (True, False),
    "the teacher is right, the student is not": (False, True),
    "both are wrong, and differently": (False, False),
}
"""Case -> whether the student and the teacher are right."""
_VOICES = {"probe": "its linear probe", "zero_shot": "its own zero-shot"}
Names = Sequence[str]


def confusion_pairs(comparison: Comparison, files: Artifacts, names: Names) -> Section:
    """The pairs of classes that the probes of the best cell confuse most on test, all its seeds together."""
    title, rows = "Confusion pairs", comparison.best_cell.finished if comparison.best_cell else ()
    known = [
        one
        for row in rows
        if (one := _evaluation(files.read(row.run_id, "evaluation.json"))) is not None
    ]
    if not known:
        why = "The best trial kept no evaluation.json with a confusion table; an older version did not write it."
        return Section(title, missing=(why,))
    pairs: Counter[tuple[int, int]] = Counter()
    for of_run, triples in known:
        names = names or of_run
        for true, predicted, count in triples:
            pairs[true, predicted] += count
    if not pairs:
        return Section(
            title, ("The linear probes of the best settings took no test image for another class.",)
        )
    lines = [
        Line("trial", (_name(names, true), _name(names, other), str(n)))
        for (true, other), n in pairs.most_common(_PAIRS)
    ]
    text = f"Test images of one class that the linear probe takes for another, over {len(known)} trained student(s) of the best settings."
    return Section(title, (text,), (Sheet("", ("class", "taken for", "images"), tuple(lines), 2),))


def _evaluation(content: bytes | None) -> tuple[Names, list[tuple[int, int, int]]] | None:
    """Names of the classes, and (true, predicted, images) of what the probe got wrong; None where the file does not say."""
    try:
        said = json.loads(content or b"{}")
        triples = [
            (int(true), int(predicted), int(count))
            for true, predicted, count in said["linear_probe"]["confusion"]
        ]
        return [str(name) for name in said.get("names", ())], triples
    except (KeyError, TypeError, ValueError):
        return None


def _name(names: Names, label: int) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"


def disagreement(
    best: Row | None, files: Artifacts, stores: Stores | None, why_not: str
) -> Section:
    """Test images on which the best trial's probe and the teacher's zero-shot say different things, the surest mistakes first."""
    title = "Where teacher and student disagree"
    if best is None or stores is None:
        return Section(title, missing=(why_not,) if best else ("No trial has finished.",))
    try:
        said = _predictions(files.read(best.run_id, "predictions.safetensors"), stores)
        teacher = teacher_predictions(stores, said["ids"])
    except UserError as error:
        return Section(title, missing=(f"{error}.",))
    right, wise, differ = (
        said["probe"] == said["labels"],
        teacher == said["labels"],
        said["probe"] != teacher,
    )
    lines, images = [], list[Shown]()
    for case, (student_is, teacher_is) in _CASES.items():
        places = np.flatnonzero(differ & (right == student_is) & (wise == teacher_is))
        lines.append(
            Line("trial", (case, f"{len(places)}", f"{100 * len(places) / len(differ):.1f}"))
        )
        images += _shown(
            case,
            places[np.argsort(-said["probe_confidence"][places], kind="stable")][:_IMAGES],
            said,
            teacher,
            stores,
        )
    sheet = Sheet("", ("case", "test images", "%"), tuple(lines), 1)
    return Section(title, (_agreement(best, teacher, said),), (sheet,), images=tuple(images))


def _agreement(best: Row, teacher: Ids, said: Mapping[str, NDArray[Any]]) -> str:
    shares = [
        f"{who} says on {100 * (said[key] == teacher).mean():.1f} %"
        for key, who in _VOICES.items()
        if key in said
    ]
    what = f"The trial {best.name}, over {len(teacher)} test images: {' and '.join(shares)} what the teacher's zero-shot says."
    return f"{what} Of each case the student's surest are shown, with the probability it gives."


def _predictions(content: bytes | None, stores: Stores) -> Mapping[str, NDArray[Any]]:
    if content is None:
        raise UserError(
            "the best trial kept no predictions.safetensors; an older version did not write it"
        )
    try:
        said: Mapping[str, NDArray[Any]] = load(content)
    except SafetensorError:
        raise UserError("the best trial's predictions.safetensors can't be read") from None
    lengths = {
        len(said[key]) if key in said else -1
        for key in ("ids", "labels", "probe", "probe_confidence")
    }
    if len(lengths) > 1 or min(lengths) < 1:
        raise UserError(
            "the best trial's predictions.safetensors lacks something, or its parts have different lengths"
        )
    ids = said["ids"]
    if (
        ids.min() < 0
        or ids.max() >= len(stores.packed)
        or (stores.packed.labels[ids] != said["labels"]).any()
    ):
        raise UserError(
            "the best trial's predictions.safetensors is about other images than the packed store holds"
        )
    return said


def _shown(
    case: str, places: Ids, said: Mapping[str, NDArray[Any]], teacher: Ids, stores: Stores
) -> list[Shown]:
    pixels, images = stores.packed.read(said["ids"][places]), []
    for place, image in zip(places, pixels, strict=True):
        true, ours, theirs = (
            _name(stores.names, int(labels[place]))
            for labels in (said["labels"], said["probe"], teacher)
        )
        sure = float(said["probe_confidence"][place])
        caption = f"{case}: image {said['ids'][place]} is {true}; student: {ours} ({sure:.2f}); teacher: {theirs}"
        images.append(Shown(f"{said['ids'][place]}.jpg", jpeg_of(image), caption))
    return images
