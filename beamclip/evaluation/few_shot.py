"""The linear probe from a few train images a class, over several draws of them."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import stats

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabelledFeatures
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.protocols import select_probe


@dataclass(frozen=True)
class FewShot:
    """Test accuracy from so many images a class, in per cent."""

    images_per_class: int
    draws: tuple[float, ...]
    """Of each draw; empty where a class has fewer images."""
    mean: float | None = None
    low: float | None = None
    """The mean's 95 % interval over draws (Student's t), None for a single draw."""
    high: float | None = None
    note: str | None = None
    """Why there is no result."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def few_shot(
    train: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, config: ProbeConfig
) -> list[FewShot]:
    """Every number of `config.few_shot`, fitted on the drawn images by the probe's own protocol.

    Settings are chosen on all of val, and val is not fitted on. A number larger than the smallest class is left out with a note.
    """
    counts = train.labels.bincount()
    smallest = int(counts[counts > 0].min())
    return [
        _one(shots, smallest, train, val, test, config) for shots in sorted(set(config.few_shot))
    ]


def _one(
    shots: int,
    smallest: int,
    train: LabelledFeatures,
    val: LabelledFeatures,
    test: LabelledFeatures,
    config: ProbeConfig,
) -> FewShot:
    if shots > smallest:
        return FewShot(shots, (), note=f"a class has only {smallest} train images")
    draws = []
    for seed in range(config.few_shot_draws):
        some = sample_shots(train, shots, seed)
        probe = select_probe(some, val, config, refit=False).probe
        draws.append(accuracy(probe.predict(test.features), test.labels))
    return FewShot(shots, tuple(draws), float(np.mean(draws)), *_interval(draws))


def sample_shots(data: LabelledFeatures, shots: int, seed: int) -> LabelledFeatures:
    """So many images of each class, the same ones for the same seed; a smaller number is part of a larger one."""
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed)).to(
        data.labels.device
    )
    ranks = torch.empty_like(order)
    for label in torch.unique(data.labels):
        of_class = order[data.labels[order] == label]
        ranks[of_class] = torch.arange(len(of_class), device=order.device)
    kept = ranks < shots
    return LabelledFeatures(data.features[kept], None, data.labels[kept])


def _interval(draws: list[float]) -> tuple[float | None, float | None]:
    if len(draws) < 2:
        return None, None
    half = stats.t.ppf(0.975, len(draws) - 1) * stats.sem(draws)
    return float(np.mean(draws) - half), float(np.mean(draws) + half)
