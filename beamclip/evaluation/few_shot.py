"""Few-shot evaluation: the linear probe on a few train images per class, over several draws."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import stats

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabeledFeatures
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.protocols import select_probe


@dataclass(frozen=True)
class FewShotResult:
    """Test accuracy of probes on a number of train images per class, in percent.

    Attributes:
        images_per_class: number of train images per class.
        draws: accuracy for each draw of images; empty if a class has fewer images.
        mean: mean over draws, None if there is no result.
        low: lower end of the mean's 95 % interval over draws (Student's t), None for a single draw.
        high: upper end.
        note: reason why there is no result.
    """

    images_per_class: int
    draws: tuple[float, ...]
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


def evaluate_few_shot(
    train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures, config: ProbeConfig
) -> list[FewShotResult]:
    """Evaluate the linear probe for every number of images in `config.few_shot`.

    The probe's settings are chosen on all of val by its usual protocol, but val is not fitted on.

    Args:
        train: images to draw from.
        val: images to choose the settings on.
        test: images to report on.
        config: `few_shot` numbers of images per class and `few_shot_draws`.

    Returns:
        One result per number, the smallest first. One larger than the smallest class only has a
        note.
    """
    class_sizes = train.labels.bincount()
    smallest = int(class_sizes[class_sizes > 0].min())
    results = []
    for shots in sorted(set(config.few_shot)):
        if shots > smallest:
            note = f"a class has only {smallest} train images"
            results.append(FewShotResult(shots, (), note=note))
            continue
        accuracies = []
        for seed in range(config.few_shot_draws):
            subset = sample_shots(train, shots, seed)
            probe = select_probe(subset, val, config, refit=False).probe
            accuracies.append(accuracy(probe.predict(test.features), test.labels))
        mean = float(np.mean(accuracies))
        low, high = _mean_interval(accuracies)
        results.append(FewShotResult(shots, tuple(accuracies), mean, low, high))
    return results


def sample_shots(data: LabeledFeatures, shots: int, seed: int) -> LabeledFeatures:
    """Draw `shots` images of each class.

    The same seed draws the same images, and a smaller number of them is a subset of a larger one.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
    # Position of each image among those of its class, in random order.
    ranks = torch.empty_like(order)
    for label in torch.unique(data.labels):
        in_class = order[data.labels[order] == label]
        ranks[in_class] = torch.arange(len(in_class), device=order.device)
    kept = ranks < shots
    return LabeledFeatures(data.features[kept], None, data.labels[kept])


def _mean_interval(values: list[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean (Student's t), or None twice for a single value."""
    if len(values) < 2:
        return None, None
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half_width), float(np.mean(values) + half_width)
