"""Few-shot evaluation: the linear probe on a few train images per class, over several draws."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabeledFeatures
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.protocols import select_probe


@dataclass(frozen=True)
class FewShotResult:
    """Test accuracy of probes fitted on a few train images per class, in percent.

    Attributes:
        images_per_class: number of train images per class.
        draws: test accuracy for each draw of train images; empty if a class has too few images.
        mean: mean over draws; None without draws.
        low: lower end of the mean's 95 % interval over draws (Student's t); None for fewer than
            two draws.
        high: upper end of that interval; None for fewer than two draws.
        note: reason why there are no draws, else None.
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
    """Evaluate the linear probe for every number of images per class in `config.few_shot`.

    The probe's settings are chosen on all of val, as usual. The probe itself is fitted on the drawn
    train images alone.

    Args:
        train: images to draw from.
        val: images to choose the settings on.
        test: images to report on.
        config: `few_shot`, the numbers of images per class; `few_shot_draws`; the probe's settings.

    Returns:
        One result per number, in ascending order. If the smallest class has fewer images than the
        number, the result has only a note.
    """
    # Classes without train images can't be drawn from and don't count as the smallest.
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
            # A refit on train and val would add all of val to the few shots.
            probe = select_probe(subset, val, config, refit=False).probe
            accuracies.append(accuracy(probe.predict(test.features), test.labels))
        mean = float(np.mean(accuracies))
        low, high = _mean_interval(accuracies)
        results.append(FewShotResult(shots, tuple(accuracies), mean, low, high))
    return results


def sample_shots(data: LabeledFeatures, shots: int, seed: int) -> LabeledFeatures:
    """Draw `shots` images of each class.

    Draws with the same seed are nested: fewer shots are a subset of more shots.

    Args:
        data: images to draw from.
        shots: number of images per class; a smaller class is taken whole.
        seed: seed of the draw.

    Returns:
        The drawn images in the order of `data`, without embeddings and ids.
    """
    generator = torch.Generator().manual_seed(seed)
    # Permuted on the CPU, so that a seed draws the same images on every device.
    order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
    # Rank of each image within its class, in random order.
    ranks = torch.empty_like(order)
    for label in torch.unique(data.labels):
        in_class = order[data.labels[order] == label]
        ranks[in_class] = torch.arange(len(in_class), device=order.device)
    kept = ranks < shots
    return LabeledFeatures(data.features[kept], None, data.labels[kept])


def _mean_interval(values: list[float]) -> tuple[float | None, float | None]:
    """Return the mean's 95 % interval (Student's t), or (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    mean = np.mean(values)
    # scipy.stats takes a second to import, which most trials can save.
    from scipy import stats

    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(mean - half_width), float(mean + half_width)
