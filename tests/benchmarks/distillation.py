"""Measure the time of a training epoch by the way its data and teacher embeddings are supplied.

    python tests/benchmarks/distillation.py [--student resnet18] [--side 64] [--images 512] \
        [--rounds 3] [--teacher DIR] [--no-live]

All ways train the same student on the same device, in turn, in one run. The first round warms up
and is not counted. The ways are:

    synthetic   forward, backward and step on one batch that is already in memory
    stores      the real loop on packed images and stored embeddings
    supervised  the same loop and recipe with a cross-entropy instead of the teacher's embeddings
    live        the teacher runs inside training: once the open_clip folder given, and once a
                ViT-B/16 with random weights, which is as fast as a trained one
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from packing import made_up, tree

from beamclip.config import Experiment, with_values
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.training.context import Context
from beamclip.training.loop import train_epoch
from beamclip.training.setup import Run, build_run

sys.path.insert(0, str(Path(__file__).parents[1]))


class Fixed:
    """Yield the same batch every time, instead of what `Prefetcher` loads."""

    def __init__(self, run: Run) -> None:
        ids = run.opened.splits.train[: run.experiment.optimizer.batch_size]
        self.batch = run.loader.make_batch(0, ids)
        self.steps = run.steps_per_epoch
        self.waited = 0.0

    def __iter__(self) -> Iterator[object]:
        return iter([self.batch] * self.steps)


def build_experiment(options: argparse.Namespace, folder: Path, teacher: Path) -> Experiment:
    """Return the experiment that the options describe, with two stored views per image."""
    values = {
        "data": {"source": "folder", "path": str(folder), "image_size": max(options.side, 96)},
        "views": {"recipe": options.recipe, "stored": 2},
        "teacher": {"model": f"local-dir:{teacher}"},
        "anchors": {"prompt_set": "plain"},
        "student": {"backbone": options.student, "image_size": options.side},
        "optimizer": {"epochs": 100, "batch_size": options.batch_size},
    }
    return Experiment.model_validate(values)


def vit_b_16(folder: Path) -> Path:
    """Save a ViT-B/16 CLIP with random weights as an open_clip folder and return the folder."""
    import json

    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-16")
    model = open_clip.CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    pixels = {
        "mean": [0.48, 0.46, 0.41],
        "std": [0.27, 0.26, 0.28],
        "interpolation": "bicubic",
        "size": [224, 224],
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": pixels})
    )
    return folder


def epoch_seconds(run: Run, batches: Callable[[int], object], epoch: int) -> tuple[float, float]:
    """Train one epoch; return its seconds and the percentage of them spent waiting for data."""
    start = time.perf_counter()
    result = train_epoch(run.train_state, batches(epoch), run.context, 0)  # type: ignore[arg-type]
    return time.perf_counter() - start, result.metrics["train/data_wait"]


def main() -> None:
    """Run all ways in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--recipe", default="simclr")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--teacher", type=Path, help="an open_clip folder (default: a tiny CLIP)")
    parser.add_argument(
        "--no-live",
        action="store_true",
        help="leave out the two ways with a teacher inside training, which take the longest",
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        from helpers import tiny

        teacher = options.teacher or tiny.make_teacher(scratch / "teacher")
        folder = tree(made_up(scratch / "made", 128), scratch / "tree", -(-options.images // 96))
        experiment = with_values(
            build_experiment(options, folder, teacher), {"data.train_images": options.images}
        )
        ways = build_ways(experiment, scratch, device)
        if not options.no_live:
            ways |= build_live_ways(experiment, scratch, device)
        run, _ = ways["stores"]
        # Incomplete batches are dropped.
        steps = len(run.opened.splits.train) // options.batch_size
        report(ways, options, steps * options.batch_size)


# A run, and a function from the number of an epoch to its batches.
Way = tuple[Run, Callable[[int], object]]


def build_ways(experiment: Experiment, scratch: Path, device: torch.device) -> dict[str, Way]:
    """Return the ways without a teacher inside training, by name."""
    stores = prepare_run(experiment, {}, scratch, device)
    supervised = prepare_run(experiment, {"objective.name": "supervised"}, scratch, device)
    fixed = Fixed(stores)
    return {
        "synthetic": (prepare_run(experiment, {}, scratch, device), lambda epoch: fixed),
        "stores": (stores, stores.batches),
        "supervised": (supervised, supervised.batches),
    }


def build_live_ways(experiment: Experiment, scratch: Path, device: torch.device) -> dict[str, Way]:
    """Return the ways with a teacher inside training, by name."""
    vit = {
        "teacher.model": f"local-dir:{vit_b_16(scratch / 'vit')}",
        "teacher.batch_size": 8 if device.type == "cpu" else 256,
    }
    live = prepare_run(experiment, {"views.teacher": "live"}, scratch, device)
    large = prepare_run(experiment, {"views.teacher": "live", **vit}, scratch, device)
    return {
        "live, the teacher given": (live, live.batches),
        "live, ViT-B/16": (large, large.batches),
    }


def prepare_run(
    experiment: Experiment, settings: dict[str, object], scratch: Path, device: torch.device
) -> Run:
    """Return a run of the experiment with some settings changed; build the stores it misses."""
    changed = with_values(experiment, settings)
    assets = prepare(changed, PreparationContext(scratch / "stores", device))
    return build_run(changed, assets, Context(device=device))


def device_name() -> str:
    """Return the name of the GPU, or the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def report(ways: dict[str, Way], options: argparse.Namespace, images: int) -> None:
    """Time all ways in turn; print medians and ratios.

    Args:
        ways: the ways by name.
        options: the options of the command line.
        images: images that each epoch trains on.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    waits: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, (run, batches) in ways.items():
            # This way takes minutes a round; one round shows the order of magnitude.
            if name == "live, ViT-B/16" and number > 1:
                continue
            took, wait = epoch_seconds(run, batches, number)
            if number:
                seconds[name].append(took)
                waits[name].append(wait)
            print(f"round {number} {name}: {took:.2f} s", file=sys.stderr, flush=True)
    base = seconds["stores"]
    print(
        f"{options.student} at {options.side} px, {options.recipe}, {images} images per epoch, "
        f"batch {options.batch_size}, {options.rounds} rounds, {device_name()}"
    )
    print(f"{'way':26} {'ms/image':>9} {'data wait':>10} {'time against stores':>20}")
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, base, strict=False))
        milliseconds = 1000 * statistics.median(times) / images
        wait = statistics.median(waits[name])
        print(f"{name:26} {milliseconds:9.2f} {wait:9.1f} % {ratio:20.3f}")
    speed = statistics.median(s / t for s, t in zip(seconds["synthetic"], base, strict=True))
    against = statistics.median(t / s for s, t in zip(seconds["supervised"], base, strict=True))
    print(
        f"synthetic time / stores time: {speed:.3f}; supervised time / stores time: {against:.3f}"
    )


if __name__ == "__main__":
    main()
