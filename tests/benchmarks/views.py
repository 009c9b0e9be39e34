"""Compare the speed of making views: beamclip's packed store, and torchvision on JPEG files.

    python tests/benchmarks/views.py [--images DIR] [--sides 32 96 224] [--rounds 5] [--copies 1]

Both run in one process with one torch thread, warmed up, in turn. Rates are medians over the
rounds, and the ratio is the median of the ratios of each round. torchvision is `ImageFolder` with
its own loader, the same recipe built from its own transforms, and the collate function of a
`DataLoader`. beamclip is what training does to make a batch: read, draw, render. Files at 32 and
96 px are squares cut from the photographs; `whole` photographs are used as they are.

DIR holds JPEGs, in folders or not. Without it, synthetic photographs are used (500 x 375 px, smooth
with noise).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from packing import jpegs_below, made_up, tree
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from beamclip.config import RECIPES, DataConfig, Recipe
from beamclip.data import PackedImages, draw, pack
from beamclip.data.augmentation.render import PixelFormat, render
from beamclip.data.augmentation.resample import blur_reach
from beamclip.data.decode import load_square_rgb

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """Describe one row of the table.

    Attributes:
        side: side of the views, in px.
        stored: side of the packed images, in px.
        files: side of the JPEG files, in px, or None for photographs as they are.
        recipe: name of the augmentation recipe.
        batch_size: images per batch.
    """

    side: int
    stored: int
    files: int | None
    recipe: str
    batch_size: int


CASES = (
    Case(32, 32, 32, "simclr_small", 256),
    Case(32, 32, 32, "weak", 256),
    Case(96, 112, 96, "simclr", 128),
    Case(96, 112, 96, "weak", 128),
    Case(96, 112, None, "simclr", 128),
    Case(96, 112, None, "weak", 128),
    Case(224, 256, None, "simclr", 64),
    Case(224, 256, None, "weak", 64),
)


def transform(recipe: Recipe, side: int) -> T.Compose:
    """Return the recipe as torchvision transforms, in the order of SimCLR's code."""
    steps: list[Callable] = [
        T.RandomResizedCrop(side, recipe.area, recipe.ratio),
        T.RandomHorizontalFlip(recipe.flip),
    ]
    if recipe.jitter:
        jitter = T.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
        steps += [T.RandomApply([jitter], recipe.jitter), T.RandomGrayscale(recipe.gray)]
    if recipe.blur:
        low, high = (sigma * side / 224 for sigma in recipe.blur_sigma)
        steps.append(
            T.RandomApply([T.GaussianBlur(2 * blur_reach(side) + 1, (low, high))], recipe.blur)
        )
    return T.Compose([*steps, T.ToTensor(), T.Normalize(MEAN, STD)])


def squares(files: list[Path], folder: Path, side: int) -> list[Path]:
    """Write the central square of each photograph at this side as a JPEG; return the files."""
    folder.mkdir()
    for number, file in enumerate(files):
        image = Image.fromarray(load_square_rgb(file.read_bytes(), side))
        image.save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


def torchvision_seconds(folder: ImageFolder, batches: list[np.ndarray]) -> float:
    """Make the batches with torchvision and return the seconds per image."""
    start = time.perf_counter()
    for ids in batches:
        default_collate([folder[i] for i in ids.tolist()])
    return (time.perf_counter() - start) / sum(map(len, batches))


def beamclip_seconds(
    images: PackedImages, case: Case, batches: list[np.ndarray], view: int
) -> float:
    """Make the batches with beamclip and return the seconds per image."""
    start = time.perf_counter()
    for ids in batches:
        pixels = torch.from_numpy(images.read(ids))
        views = draw(RECIPES[case.recipe], ids, np.full(len(ids), view), 0)
        render(pixels, views, PixelFormat(case.side, MEAN, STD))
    return (time.perf_counter() - start) / sum(map(len, batches))


def measure(
    case: Case, folder: Path, images: PackedImages, rounds: int
) -> tuple[float, float, list[float]]:
    """Measure one case.

    Returns:
        Images per second of torchvision and of beamclip (medians), and the ratio of each round.
    """
    files = ImageFolder(folder / "train", transform(RECIPES[case.recipe], case.side))
    random = np.random.default_rng(0)
    torchvision_rates = []
    beamclip_rates = []
    for view in range(rounds + 1):
        order = random.permutation(images.train_ids)
        batches = [order[i : i + case.batch_size] for i in range(0, len(order), case.batch_size)]
        torchvision_rates.append(1 / torchvision_seconds(files, batches))
        beamclip_rates.append(1 / beamclip_seconds(images, case, batches, view))
    # The first round warms up.
    del torchvision_rates[0]
    del beamclip_rates[0]
    ratios = [ours / theirs for theirs, ours in zip(torchvision_rates, beamclip_rates, strict=True)]
    return statistics.median(torchvision_rates), statistics.median(beamclip_rates), ratios


def main() -> None:
    """Measure each case in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96, 224])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--copies", type=int, default=1, help="links to every file, for longer rounds"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        photographs = jpegs_below(options.images) if options.images else made_up(scratch / "made")
        print(
            f"{'side':>4} {'files':>6} {'stored':>6} {'recipe':12} {'batch':>5} "
            f"{'torchvision/s':>13} {'beamclip/s':>10}  ratio (rounds)"
        )
        trees: dict[int | None, Path] = {}
        stores: dict[tuple[int | None, int], PackedImages] = {}
        for case in CASES:
            if case.side not in options.sides:
                continue
            if case.files not in trees:
                files = photographs
                copies = options.copies
                if case.files is not None:
                    files = squares(photographs, scratch / f"files{case.files}", case.files)
                    copies = 4 * options.copies
                trees[case.files] = tree(files, scratch / f"tree{case.files}", copies)
            folder = trees[case.files]
            key = (case.files, case.stored)
            if key not in stores:
                config = DataConfig(source="folder", path=str(folder), image_size=case.stored)
                stores[key] = pack(config, scratch / "stores")
            theirs, ours, ratios = measure(case, folder, stores[key], options.rounds)
            print(
                f"{case.side:4} {case.files or 'whole':>6} {case.stored:6} {case.recipe:12} "
                f"{case.batch_size:5} {theirs:13.0f} {ours:10.0f}"
                f"  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
