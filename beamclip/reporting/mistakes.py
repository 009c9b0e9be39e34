"""Build the report's sections on mistakes: confused classes, and disagreement with the teacher."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from beamclip.config import UserError
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import RunRow
from beamclip.reporting.page import PageImage, Section
from beamclip.reporting.sources import IntArray, TrialStores, encode_jpeg, teacher_predictions
from beamclip.reporting.tables import ReportTable, TableRow
from beamclip.tracking import Artifacts

# At most so many pairs of classes, and images of each case, are shown.
_MAX_PAIRS = 15
_MAX_IMAGES = 8
_CASES = {
    "the student is right, the teacher is not": (True, False),
    "the teacher is right, the student is not": (False, True),
    "both are wrong, and differently": (False, False),
}
"""Case -> (student is right, teacher is right), for images on which their predictions differ."""


@dataclass(frozen=True)
class _Confusion:
    """The linear probe's mistakes on test, read from a trial's `evaluation.json`.

    Attributes:
        names: class names in label order; empty if the file does not have them.
        counts: (true label, predicted label, number of images) of each kind of mistake.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class _Predictions:
    """The content of a trial's `predictions.safetensors`, with one entry for each test image.

    Attributes:
        ids: sample ids in the packed store, [N].
        labels: true labels, [N].
        probe: labels predicted by the linear probe, [N].
        probe_confidence: probability that the probe gives to its prediction, [N].
        zero_shot: labels predicted by the student's own zero-shot, [N]; None if it has none.
    """

    ids: IntArray
    labels: IntArray
    probe: IntArray
    probe_confidence: NDArray[np.floating]
    zero_shot: IntArray | None


def confusion_section(comparison: Comparison, files: Artifacts, names: Sequence[str]) -> Section:
    """List the pairs of classes that the linear probes of the best group confuse most on test.

    Args:
        comparison: the sweep; the counts are summed over the seeds of its best group.
        files: artifacts of the trials' runs in MLflow.
        names: class names in label order; if empty, those in `evaluation.json` are used.
    """
    title = "Confusion pairs"
    rows = comparison.best_group.finished if comparison.best_group else ()
    confusions = []
    for row in rows:
        confusion = _parse_evaluation(files.read(row.run_id, "evaluation.json"))
        if confusion is not None:
            confusions.append(confusion)
    if not confusions:
        missing = (
            "The best trial kept no evaluation.json with a confusion table; older versions of "
            "beamclip did not write it."
        )
        return Section(title, missing=(missing,))

    # Sum over seeds.
    images_by_pair: Counter[tuple[int, int]] = Counter()
    for confusion in confusions:
        names = names or confusion.names
        for true, predicted, images in confusion.counts:
            images_by_pair[true, predicted] += images
    if not images_by_pair:
        return Section(title, ("The linear probes of the best settings made no mistake on test.",))

    table_rows = []
    for (true, predicted), images in images_by_pair.most_common(_MAX_PAIRS):
        cells = (_class_name(names, true), _class_name(names, predicted), str(images))
        table_rows.append(TableRow("trial", cells))
    table = ReportTable("", ("class", "taken for", "images"), tuple(table_rows), 2)
    text = (
        "Test images of one class that the linear probe takes for another, summed over "
        f"{len(confusions)} trained student(s) of the best settings."
    )
    return Section(title, (text,), tables=(table,))


def _parse_evaluation(content: bytes | None) -> _Confusion | None:
    """Parse an `evaluation.json`; return None if it is missing or has no confusion table."""
    try:
        # A missing file is parsed as {} and fails below, as one without the table does.
        report = json.loads(content or b"{}")
        counts = []
        for true, predicted, images in report["linear_probe"]["confusion"]:
            counts.append((int(true), int(predicted), int(images)))
        names = tuple(str(name) for name in report.get("names", ()))
    except (KeyError, TypeError, ValueError):
        return None
    return _Confusion(names, tuple(counts))


def _class_name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"


def disagreement_section(
    best: RunRow | None, files: Artifacts, stores: TrialStores | None, reason: str
) -> Section:
    """Show test images on which the best trial's probe and the teacher's zero-shot differ.

    Args:
        best: the best trial; None if no trial has finished.
        files: artifacts of the trials' runs in MLflow.
        stores: the trial's images and anchors; None if they can't be read.
        reason: why the stores can't be read, as a sentence.
    """
    title = "Where teacher and student disagree"
    if best is None:
        return Section(title, missing=("No trial has finished.",))
    if stores is None:
        return Section(title, missing=(reason,))
    try:
        student = _read_predictions(files.read(best.run_id, "predictions.safetensors"), stores)
        teacher = teacher_predictions(stores, student.ids)
    except UserError as error:
        return Section(title, missing=(f"{error}.",))
    student_right = student.probe == student.labels
    teacher_right = teacher == student.labels
    differ = student.probe != teacher
    rows = []
    images = []
    for case, (is_student_right, is_teacher_right) in _CASES.items():
        as_in_case = (student_right == is_student_right) & (teacher_right == is_teacher_right)
        positions = np.flatnonzero(differ & as_in_case)
        share = 100 * len(positions) / len(differ)
        rows.append(TableRow("trial", (case, str(len(positions)), f"{share:.1f}")))
        # Stable: with equal confidences every report shows the same images.
        most_confident_first = np.argsort(-student.probe_confidence[positions], kind="stable")
        shown = positions[most_confident_first][:_MAX_IMAGES]
        images += _case_images(case, shown, student, teacher, stores)
    table = ReportTable("", ("case", "test images", "%"), tuple(rows), 1)
    text = _agreement_sentences(best, student, teacher)
    return Section(title, (text,), tables=(table,), images=tuple(images))


def _agreement_sentences(best: RunRow, student: _Predictions, teacher: IntArray) -> str:
    """Return sentences on how often the student agrees with the teacher's zero-shot."""
    probe_share = 100 * (student.probe == teacher).mean()
    shares = [f"its linear probe on {probe_share:.1f} %"]
    if student.zero_shot is not None:
        zero_shot_share = 100 * (student.zero_shot == teacher).mean()
        shares.append(f"its own zero-shot on {zero_shot_share:.1f} %")
    return (
        f"The trial {best.name} agrees with its teacher's zero-shot on {len(teacher)} test images: "
        f"{' and '.join(shares)}. The images of each case on which the student is most confident "
        "are shown with the probability it gives."
    )


def _read_predictions(content: bytes | None, stores: TrialStores) -> _Predictions:
    """Parse a `predictions.safetensors`.

    Raises:
        UserError: the file is missing or damaged, or its ids and labels do not match the images.
    """
    if content is None:
        raise UserError(
            "the best trial kept no predictions.safetensors; older versions of beamclip did not "
            "write it"
        )
    try:
        arrays = load(content)
    except SafetensorError:
        raise UserError("the best trial's predictions.safetensors can't be read") from None
    required = ("ids", "labels", "probe", "probe_confidence")
    is_complete = all(name in arrays for name in required)
    lengths = {len(arrays[name]) for name in required if name in arrays}
    if not is_complete or len(lengths) > 1 or 0 in lengths:
        raise UserError(
            "the best trial's predictions.safetensors lacks an array, or its arrays have different "
            "lengths"
        )
    ids = arrays["ids"]
    ids_exist = ids.min() >= 0 and ids.max() < len(stores.packed)
    if not ids_exist or (stores.packed.labels[ids] != arrays["labels"]).any():
        raise UserError(
            "the best trial's predictions.safetensors is about other images than those in the "
            "packed store"
        )
    return _Predictions(
        ids, arrays["labels"], arrays["probe"], arrays["probe_confidence"], arrays.get("zero_shot")
    )


def _case_images(
    case: str,
    positions: IntArray,
    student: _Predictions,
    teacher: IntArray,
    stores: TrialStores,
) -> list[PageImage]:
    """Return the images at these positions with captions.

    Args:
        case: beginning of the captions.
        positions: indices into the predictions, [K].
        student: the student's predictions for N images.
        teacher: labels predicted by the teacher, [N].
        stores: images and class names.
    """
    images = []
    pixels = stores.packed.read(student.ids[positions])
    for position, image in zip(positions, pixels, strict=True):
        sample_id = student.ids[position]
        true = _class_name(stores.names, int(student.labels[position]))
        student_class = _class_name(stores.names, int(student.probe[position]))
        teacher_class = _class_name(stores.names, int(teacher[position]))
        confidence = float(student.probe_confidence[position])
        caption = (
            f"{case}: image {sample_id} is {true}; student: {student_class} ({confidence:.2f}); "
            f"teacher: {teacher_class}"
        )
        images.append(PageImage(f"{sample_id}.jpg", encode_jpeg(image), caption))
    return images
