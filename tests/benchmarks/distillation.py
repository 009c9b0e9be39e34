"""What feeding a student costs: from the stores, without any teacher, from tensors in memory, and with the teacher inside training.

    python tests/benchmarks/distillation.py [--student resnet18] [--side 64] [--images 512] [--rounds 3] [--teacher DIR] [--no-live]

All ways train the same student on the same device in turn, in one run; the first round warms up and is not counted. `synthetic` is
forward, backward and step on one batch that lies in memory; `stores` is the real loop on packed images and stored embeddings;
`supervised` is the same loop and recipe with a cross-entropy in place of the teacher's embeddings; `live` runs the teacher inside
training: the open_clip folder given, and a ViT-B/16 of random weights (speed does not care what it knows).
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
    """The same batch over and over, in place of `Prefetcher`."""

    def __init__(self, run: Run) -> None:
        ids = run.opened.splits.train[: run.experiment.optimizer.batch_size]
        self.batch, self.steps, self.waited = (
            run.loader.make_batch(0, ids),
            run.steps_per_epoch,
            0.0,
        )

    def __iter__(self) -> Iterator[object]:
        return iter([self.batch] * self.steps)


def experiment_of(options: argparse.Namespace, folder: Path, teacher: Path) -> Experiment:
    """A distillation of the student, with two stored views of a heavy recipe."""
    tree_ = {
        "data": {"source": "folder", "path": str(folder), "image_size": max(options.side, 96)},
        "views": {"recipe": options.recipe, "stored": 2},
        "teacher": {"model": f"local-dir:{teacher}"},
        "anchors": {"prompt_set": "plain"},
        "student": {"backbone": options.student, "image_size": options.side},
        "optimizer": {"epochs": 100, "batch_size": options.batch_size},
    }
    return Experiment.model_validate(tree_)


def vit_b_16(folder: Path) -> Path:
    """A ViT-B/16 CLIP of random weights, as an open_clip folder."""
    import json

    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-16")
    model = open_clip.CLIP(
        **{
            key: value
            for key, value in config.items()
            if key in ("embed_dim", "vision_cfg", "text_cfg")
        }
    )
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
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
    """Seconds an epoch takes, and the share of it spent waiting for data in per cent."""
    start = time.perf_counter()
    result = train_epoch(run.train_state, batches(epoch), run.context, 0)  # type: ignore[arg-type]
    return time.perf_counter() - start, result.metrics["train/data_wait"]


def main() -> None:
    """Run the ways in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--recipe", default="simclr")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--teacher", type=Path, help="an open_clip folder; default a tiny one of random weights"
    )
    parser.add_argument(
        "--no-live",
        action="store_true",
        help="leave out the two ways with a teacher inside training, which take longest",
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        from helpers import tiny

        teacher = options.teacher or tiny.make_teacher(scratch / "teacher")
        folder = tree(made_up(scratch / "made", 128), scratch / "tree", -(-options.images // 96))
        experiment = with_values(
            experiment_of(options, folder, teacher), {"data.train_images": options.images}
        )
        ways = build_ways(experiment, scratch, device)
        if not options.no_live:
            ways |= build_live_ways(experiment, scratch, device)
        report(
            ways,
            options,
            len(next(iter(ways.values()))[0].opened.splits.train)
            // options.batch_size
            * options.batch_size,
        )


Way = tuple[Run, Callable[[int], object]]


def build_ways(experiment: Experiment, scratch: Path, device: torch.device) -> dict[str, Way]:
    """Each way's run, and what gives its batches of an epoch."""
    stores = run_of(experiment, {}, scratch, device)
    supervised = run_of(experiment, {"objective.name": "supervised"}, scratch, device)
    fixed = Fixed(stores)
    return {
        "synthetic": (run_of(experiment, {}, scratch, device), lambda epoch: fixed),
        "stores": (stores, stores.batches),
        "supervised": (supervised, supervised.batches),
    }


def build_live_ways(experiment: Experiment, scratch: Path, device: torch.device) -> dict[str, Way]:
    """The same with a teacher inside training."""
    vit = {
        "teacher.model": f"local-dir:{vit_b_16(scratch / 'vit')}",
        "teacher.batch_size": 8 if device.type == "cpu" else 256,
    }
    live = run_of(experiment, {"views.teacher": "live"}, scratch, device)
    large = run_of(experiment, {"views.teacher": "live", **vit}, scratch, device)
    return {
        "live, the teacher given": (live, live.batches),
        "live, ViT-B/16": (large, large.batches),
    }


def run_of(
    experiment: Experiment, settings: dict[str, object], scratch: Path, device: torch.device
) -> Run:
    """A run of this experiment with some settings changed, on stores that are made where they are missing."""
    changed = with_values(experiment, settings)
    return build_run(
        changed,
        prepare(changed, PreparationContext(scratch / "stores", device)),
        Context(device=device),
    )


def device_name() -> str:
    """What the numbers were measured on."""
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )


def report(ways: dict[str, Way], options: argparse.Namespace, images: int) -> None:
    """Time all ways in turn, and print medians and ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    waits: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, (run, batches) in ways.items():
            if name == "live, ViT-B/16" and number > 1:
                continue  # minutes each; once is enough to see its order
            took, wait = epoch_seconds(run, batches, number)
            if number:
                seconds[name].append(took)
                waits[name].append(wait)
            print(f"round {number} {name}: {took:.2f} s", file=sys.stderr, flush=True)
    base = seconds["stores"]
    what = f"{options.student} at {options.side} px, {options.recipe}, {images} images an epoch"
    print(f"{what}, batch {options.batch_size}, {options.rounds} rounds, {device_name()}")
    print(f"{'way':26} {'ms/image':>9} {'data wait':>10} {'time against stores':>20}")
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, base, strict=False))
        print(
            f"{name:26} {1000 * statistics.median(times) / images:9.2f} {statistics.median(waits[name]):9.1f} % {ratio:20.3f}"
        )
    speed = statistics.median(s / t for s, t in zip(seconds["synthetic"], base, strict=True))
    against = statistics.median(t / s for s, t in zip(seconds["supervised"], base, strict=True))
    print(
        f"from the stores: {speed:.3f} of the speed on synthetic data; {against:.3f} of the time without a teacher"
    )


if __name__ == "__main__":
    main()
