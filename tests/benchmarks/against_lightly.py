"""Compare SimCLR or SwAV of beamclip with lightly's on the same pixels.

    python tests/benchmarks/against_lightly.py --preset docs/results/simclr200.yaml --data DIR \
        [--set KEY=VALUE …] [--side ours|lightly]

lightly's side uses lightly's losses, heads and transforms in a plain torch loop. Both sides take
the backbone, batch size, optimizer, schedule, temperature and widths from the preset, and train on
two views without small crops.

The script prints the loss of each epoch, then k-NN accuracy (k and temperature of the preset) and
the accuracy of scikit-learn's logistic regression on standardized features. It prints no times:
lightly's transforms run in this process, one image at a time, so they would not be comparable.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightly.loss import NTXentLoss, SwaVLoss
from lightly.models.modules import SimCLRProjectionHead, SwaVProjectionHead, SwaVPrototypes
from lightly.transforms import SimCLRTransform, SwaVTransform
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from beamclip.config import Experiment, load_experiment, parse_assignments
from beamclip.evaluation import knn_predict
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.training.context import Context
from beamclip.training.evaluate import labeled_features
from beamclip.training.loop import train_epoch
from beamclip.training.optimizer import build_schedule
from beamclip.training.setup import Run, build_run


class Pairs(Dataset):
    """Return two views of each image, made by one of lightly's transforms."""

    def __init__(
        self, pixels: np.ndarray, transform: Callable[[Image.Image], list[Tensor]]
    ) -> None:
        self.images = [Image.fromarray(image) for image in pixels]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


class Simclr(nn.Module):
    """Compute lightly's SimCLR loss from the features of two views."""

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)

    def __init__(self, features: int, experiment: Experiment) -> None:
        super().__init__()
        config = experiment.objective.simclr
        self.head = SimCLRProjectionHead(features, config.hidden, config.width)
        self.loss = NTXentLoss(temperature=config.temperature)

    def forward(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        return self.loss(self.head(first), self.head(second))


class Swav(nn.Module):
    """Compute lightly's SwAV loss from the features of two views."""

    transform = SwaVTransform(
        crop_sizes=(32,),
        crop_counts=(2,),
        crop_min_scales=(0.08,),
        crop_max_scales=(1.0,),
        cj_strength=0.5,
        gaussian_blur=0.0,
    )

    def __init__(self, features: int, experiment: Experiment) -> None:
        super().__init__()
        config = experiment.objective.swav
        self.head = SwaVProjectionHead(features, config.hidden, config.width)
        self.prototypes = SwaVPrototypes(config.width, config.prototypes, 1)
        self.loss = SwaVLoss()

    def forward(self, first: Tensor, second: Tensor, epoch: int) -> Tensor:
        self.prototypes.normalize()
        scores = []
        for view in (first, second):
            projection = nn.functional.normalize(self.head(view), dim=1)
            scores.append(self.prototypes(projection, epoch))
        return self.loss(scores, [])


def train_lightly(run: Run) -> None:
    """Train the run's student with lightly's loss and views in place of ours."""
    experiment = run.experiment
    student = run.student
    method = Simclr if experiment.objective.name == "simclr" else Swav
    objective = method(student.backbone.num_features, experiment)
    parameters = [*student.backbone.parameters(), *objective.parameters()]
    config = experiment.optimizer
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            parameters, config.lr, config.momentum, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(parameters, config.lr, weight_decay=config.weight_decay)
    loader = DataLoader(
        Pairs(run.opened.packed.read(run.opened.trained), objective.transform),
        config.batch_size,
        shuffle=True,
        drop_last=True,
    )
    schedule = build_schedule(config, optimizer, len(loader))
    student.train()
    for epoch in range(config.epochs):
        losses = []
        for first, second in loader:
            loss = objective(student.features(first), student.features(second), epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"lightly, epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)


def train_ours(run: Run) -> None:
    """Train the run's student as a trial does."""
    for epoch in range(run.experiment.optimizer.epochs):
        metrics = train_epoch(
            run.train_state, run.batches(epoch), run.context, epoch * run.steps_per_epoch
        ).metrics
        print(f"ours, epoch {epoch + 1}: loss {metrics['train/loss']:.4f}", flush=True)


def describe_accuracies(run: Run) -> Iterator[str]:
    """Yield the accuracy of k-NN and of logistic regression on the student's test features."""
    train, test = (
        labeled_features(run.opened.packed, ids, run.student, run.pixels, run.context)
        for ids in (run.opened.trained, run.opened.splits.test)
    )
    config = run.experiment.probe
    for k in config.knn_k:
        predicted = knn_predict(
            test.features, train.features, train.labels, [k], config.knn_temperature
        )[0]
        yield f"k-NN (k = {k}) {100 * (predicted == test.labels).float().mean():.2f}"
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(
        train.features, train.labels
    )
    yield f"logistic regression {100 * regression.score(test.features, test.labels):.2f}"


def main() -> None:
    """Train one side or both and print the accuracies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", choices=("ours", "lightly"), help="default: both")
    options = parser.parse_args()
    experiment = load_experiment(
        options.preset,
        {"data.path": options.data, "data.source": "auto"} | parse_assignments(options.set),
    )
    assert experiment.objective.name in ("simclr", "swav"), (
        "only simclr and swav can be compared with lightly"
    )
    with tempfile.TemporaryDirectory() as scratch:
        assets = prepare(experiment, PreparationContext(Path(scratch), torch.device("cpu")))
        for side, train in (("lightly", train_lightly), ("ours", train_ours)):
            if options.side in (None, side):
                run = build_run(experiment, assets, Context())
                torch.manual_seed(experiment.seed)
                train(run)
                print(f"{side}: {', '.join(describe_accuracies(run))}", flush=True)


if __name__ == "__main__":
    main()
