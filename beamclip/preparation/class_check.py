"""Check class names on a few hundred images before the teacher passes.

A list of names in another order than the labels spoils a whole sweep without any error. The
teacher's zero-shot accuracy shows it: it is near chance, but high if the names are matched to the
classes in another way. A few hundred images are enough, and the later passes need them anyway.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from beamclip.anchors import AnchorSet, AnchorSetPlan, build_anchor_sets
from beamclip.anchors.senses import dataset_classes, resolve_senses
from beamclip.config import Experiment, UserError, with_values
from beamclip.config.metrics import near_chance
from beamclip.data import PackedImages, Splits
from beamclip.data.packed import Ids
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.preparation.anchors import AnchorSetKey, ExperimentAnchorSets, anchor_set_key
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import embed
from beamclip.preparation.teacher_passes import TeacherPass, merge_passes
from beamclip.stores import Store
from beamclip.teachers import Embeddings, Teacher, ViewSet

# Number of val images to look at: a few per class, within these limits.
_IMAGES_PER_CLASS = 4
_MIN_IMAGES = 512
_MAX_IMAGES = 4096
# The scale of CLIP's logits, at which its training is clipped.
_SCALE = 100.0
# The names are refused only if others are better by this factor, beyond both intervals.
_FACTOR = 2
# Names that mean nothing to a teacher, such as the letters A to J, can be matched too, because each
# class is near some of them: measured, up to 34 % with ten classes and 6 % with a hundred. So a
# matching must be more accurate than the smaller of these, a percentage and a multiple of chance.
_MIN_MATCHED = 40
_MIN_MATCHED_CHANCES = 15
_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """Class names that fit the images better.

    Attributes:
        top1: zero-shot accuracy with them, in percent.
        images: number of images on which it was measured.
        how: in which way they are better, to follow the accuracy in a sentence.
        advice: what to do, an imperative.
        least: accuracy up to which it says nothing against the names in use, in percent.
    """

    top1: float
    images: int
    how: str
    advice: str
    least: float = 0.0


@dataclass(frozen=True)
class _Sample:
    """Images of one experiment, and what the check needs to know about them.

    Attributes:
        experiment: the settings.
        teacher: its first teacher.
        names: class names in label order.
        embeddings: the teacher's embeddings of the images, [N, D].
        anchors: anchors of the classes, [K, D].
        labels: labels of the images, [N].
    """

    experiment: Experiment
    teacher: Teacher
    names: tuple[str, ...]
    embeddings: Tensor
    anchors: Tensor
    labels: Tensor

    @property
    def logits(self) -> Tensor:
        return zero_shot_logits(self.embeddings, self.anchors)


def check_class_names(
    experiments: Mapping[str, Experiment],
    data: Mapping[str, tuple[PackedImages, Splits]],
    anchor_sets: Mapping[str, ExperimentAnchorSets],
    anchor_stores: Mapping[AnchorSetKey, Store],
    context: PreparationContext,
) -> dict[str, int]:
    """Check that the first teacher recognizes val images by the names of their classes.

    Prints a warning if the zero-shot accuracy is near chance. Experiments with
    `data.check_class_names` off are skipped.

    Args:
        experiments: experiments by name.
        data: packed images and splits, by name of the experiment.
        anchor_sets: plans of the anchor sets, by name of the experiment.
        anchor_stores: stores of the anchor sets, by `anchor_set_key`.
        context: loads teachers and says where the stores are.

    Returns:
        Number of images that were encoded now, by the `pass_key` of the pass they are part of.

    Raises:
        UserError: the accuracy is low, and would be much better with the names in another order or
            with the names of the folders.
    """
    passes = {}
    for name, experiment in experiments.items():
        if experiment.data.check_class_names:
            packed, splits = data[name]
            ids = sample_ids(splits.val, packed.labels)
            passes[name] = TeacherPass(experiment.teacher, packed, ViewSet.center(ids))
    stores: dict[str, Embeddings] = {}
    encoded = {}
    for key, teacher_pass in merge_passes(passes.values()).items():
        stores[key], encoded[key] = embed(
            context.teacher(teacher_pass.tower),
            teacher_pass.packed,
            teacher_pass.views,
            context.root,
            context.progress,
            context.run_small,
            repair=context.repair,
            measure=context.throughput,
            kind="samples",
        )
    # Most experiments of a sweep have the same images, teacher and prompts.
    seen = set()
    for name, teacher_pass in passes.items():
        anchors_key = anchor_set_key(*anchor_sets[name].own, context)
        case = (teacher_pass.key, teacher_pass.views.ids.tobytes(), anchors_key)
        if case in seen:
            continue
        seen.add(case)
        anchors = AnchorSet.open(anchor_stores[anchors_key])
        ids = teacher_pass.views.ids
        sample = _Sample(
            experiments[name],
            context.teacher(teacher_pass.tower),
            anchors.names,
            # The canonical view has id 0.
            torch.from_numpy(stores[teacher_pass.key].gather(ids, 0)),
            anchors.embeddings,
            torch.from_numpy(teacher_pass.packed.labels[ids]),
        )
        _check(sample, context)
    return encoded


def sample_ids(val: Ids, labels: NDArray[np.int64]) -> Ids:
    """Return the val images to look at, in ascending order: as many of each class, if possible.

    Args:
        val: sample ids of val.
        labels: labels of all packed images, by sample id.
    """
    classes = len(np.unique(labels[val]))
    count = min(max(_MIN_IMAGES, _IMAGES_PER_CLASS * classes), _MAX_IMAGES)
    # Take the first image of each class, then the second, and so on.
    by_class = val[np.argsort(labels[val], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank_in_class = np.arange(len(by_class)) - np.repeat(starts, sizes)
    chosen = by_class[np.argsort(rank_in_class, kind="stable")[:count]]
    return np.sort(chosen)


def _check(sample: _Sample, context: PreparationContext) -> None:
    """Raise UserError if other names are much better; warn if the accuracy is near chance."""
    classes = len(sample.names)
    count = len(sample.labels)
    top1 = accuracy(sample.logits, sample.labels)
    low, high = wilson_interval(top1, count)
    chance = f"guessing among {classes} gets {100 / classes:.3g} %"
    better = []
    # Beyond that, nothing can be better by the factor. With two classes it may still be chance.
    can_be_better = _FACTOR * high < 100
    for finding in _findings(sample, context) if can_be_better else ():
        finding_low, _ = wilson_interval(finding.top1, finding.images)
        if finding_low > max(_FACTOR * high, finding.least):
            better.append(finding)
    if better:
        # The easiest to explain is first, and `max` prefers it among equals.
        best = max(better, key=lambda finding: finding.top1)
        raise UserError(
            f"{_origin(sample.experiment)} don't fit the images: with them, {sample.teacher.name} "
            f"recognizes {top1:.3g} % of {count} images held out of train ({chance}), but "
            f"{best.top1:.3g} % {best.how}; {best.advice}, or set data.check_class_names=false to "
            "use them as they are"
        )
    if near_chance(low, classes):
        context.say(
            f"beamclip: WARNING: {sample.teacher.name} hardly knows these classes by these names: "
            f"with prompt set {sample.experiment.anchors.prompt_set} it recognizes {top1:.3g} % of "
            f"{count} images held out of train ({chance}). What students learn from it may be "
            "noise.\n"
            "  Check the names, their order and senses (beamclip anchors --explain), the images "
            "and the teacher's\n  mean and std (beamclip doctor), "
            "or try another prompt set (anchors.prompt_set) or teacher (teacher.model)."
        )


def _origin(experiment: Experiment) -> str:
    data = experiment.data
    if data.class_names is not None:
        return f"the names in data.class_names {data.class_names}"
    return f"the class names of {data.path or data.source}"


def _findings(sample: _Sample, context: PreparationContext) -> Iterator[Finding]:
    """Yield other names for the classes, those that are the easiest to explain first."""
    own = _names_without_list(sample, context)
    if own is not None:
        finding = _by_own_names(sample, own, context)
        if finding is not None:
            yield finding
    yield _best_matching(sample, own)


def _names_without_list(sample: _Sample, context: PreparationContext) -> tuple[str, ...] | None:
    """Return the class names that the images have without `data.class_names`, if any."""
    data = sample.experiment.data
    if data.class_names is None:
        return None
    try:
        return context.source(data.model_copy(update={"class_names": None})).names
    except UserError:
        # The list is needed, because the images have no names of their own.
        return None


def _by_own_names(
    sample: _Sample, own: tuple[str, ...], context: PreparationContext
) -> Finding | None:
    has_words = any(character.isalpha() for name in own for character in name)
    if not has_words or own == sample.names:
        return None
    experiment = with_values(sample.experiment, {"data.class_names": None})
    source = context.source(experiment.data)
    config = experiment.anchors
    try:
        senses = resolve_senses(dataset_classes(source.names, source.keys, None), config)
        plan = AnchorSetPlan.of(senses, config.prompt_set, config.members())
    except UserError:
        # The senses that the user pinned have the names of the list.
        return None
    (store,) = build_anchor_sets(sample.teacher, [plan], context.root, context.progress)
    logits = zero_shot_logits(sample.embeddings, AnchorSet.open(store).embeddings)
    return Finding(
        top1=accuracy(logits, sample.labels),
        images=len(sample.labels),
        how=f"by the images' own names ({', '.join(own[:_EXAMPLES])}, …)",
        advice="leave data.class_names out, or correct the list",
    )


def _best_matching(sample: _Sample, own: tuple[str, ...] | None) -> Finding:
    """Match names to classes as one half of the images suggests, and measure on the other half.

    The matching maximizes the mean probability of its names (the Hungarian method).
    """
    # Images of a class are neighbors here, so every second one is a half of each class.
    order = torch.argsort(sample.labels, stable=True)
    fitted, measured = order[::2], order[1::2]
    probabilities = torch.softmax(_SCALE * sample.logits, 1)
    labels = torch.unique(sample.labels)
    rows = torch.searchsorted(labels, sample.labels)
    scores = torch.zeros(len(labels), len(sample.names))
    scores.index_add_(0, rows[fitted], probabilities[fitted])
    images_per_row = torch.bincount(rows[fitted], minlength=len(labels)).clamp(min=1)
    _, names = linear_sum_assignment((scores / images_per_row[:, None]).numpy(), maximize=True)
    matched = torch.from_numpy(names)
    hits = sample.logits[measured].argmax(1) == matched[rows[measured]]
    examples = []
    for label, name in zip(labels.tolist(), names.tolist(), strict=True):
        if label != name:
            # A list may have more lines than there are classes.
            called = f"label {label}"
            if own is not None and label < len(own):
                called = f"class {own[label]}"
            examples.append(f"{called} is {sample.names[name]}, not {sample.names[label]}")
    return Finding(
        top1=100 * hits.double().mean().item(),
        images=len(measured),
        how=f"with the names in another order ({', '.join(examples[:_EXAMPLES])}, …)",
        advice="give data.class_names with one name per line, in label order",
        least=min(_MIN_MATCHED, _MIN_MATCHED_CHANCES * 100 / len(sample.names)),
    )
