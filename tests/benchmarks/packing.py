"""Packing through Ray Data against bare decoding on the same cores, and the memory of packing and embedding ten times more data.

    python tests/benchmarks/packing.py speed  [--images DIR] [--copies 20]
    python tests/benchmarks/packing.py memory [--images DIR] [--copies 2]

DIR holds JPEGs, in folders or not; without it photographs are made up (500 x 375 px, smooth with noise). `speed` prints the median
ratio of five rounds, each of bare decoding + resizing in one process a core and of `pack` on a local Ray with as many, on the same
files. `memory` runs `beamclip pack` and `beamclip embed` over the images and over ten times as many and prints the largest resident
memory of all processes of each command together.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from beamclip.config import DataConfig
from beamclip.data.decode import load_square_rgb

SIDE = 224
CLASSES = 4


def made_up(folder: Path, count: int = 240) -> list[Path]:
    """Photographs of a sort: low frequencies, some noise, 500 x 375 px, JPEG quality 90."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.clip(np.asarray(small) + random.normal(0, 8, (375, 500, 3)), 0, 255).astype(
            np.uint8
        )
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


def tree(files: list[Path], folder: Path, copies: int) -> Path:
    """train/CLASS and test/CLASS with `copies` links to every file (a seventh of them in test)."""
    for copy in range(copies):
        for number, file in enumerate(files):
            split = "test" if number % 7 == 0 else "train"
            place = folder / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{copy}-{number}.jpg").symlink_to(file)
    return folder


def decode(path: str) -> int:
    """What packing does to an image, without writing it."""
    return int(load_square_rgb(Path(path).read_bytes(), SIDE)[0, 0, 0])


def bare(folder: Path, cores: int) -> float:
    """Images a second: decoding and resizing in one process a core, after a first round that starts them."""
    files = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(decode, files[: 16 * cores], chunksize=8))
        start = time.perf_counter()
        list(pool.map(decode, files, chunksize=16))
        return len(files) / (time.perf_counter() - start)


def packed(folder: Path) -> float:
    """Images a second of `pack` on the cluster, starting its actors included."""
    from beamclip.data import pack
    from beamclip.distributed.shard_pool import ClusterRunner

    with tempfile.TemporaryDirectory(dir=folder.parent) as root:
        start = time.perf_counter()
        images = pack(
            DataConfig(source="folder", path=str(folder), image_size=SIDE),
            Path(root),
            run=ClusterRunner(),
        )
        return len(images) / (time.perf_counter() - start)


def speed(files: list[Path], scratch: Path, copies: int) -> None:
    """Print both rates and their ratio."""
    import ray

    cores = len(os.sched_getaffinity(0))
    folder = tree(files, scratch / "tree", copies)
    ray.init(address="local", num_cpus=cores, log_to_driver=False, include_dashboard=False)
    rounds = []
    for number in range(5):
        rounds.append((bare(folder, cores), packed(folder)))
        print(
            f"round {number + 1}: bare {rounds[-1][0]:.0f} images/s, pack {rounds[-1][1]:.0f} images/s",
            flush=True,
        )
    ratio = statistics.median(b / a for a, b in rounds)
    print(
        f"{len(files) * copies} images to {SIDE} px on {cores} cores: pack runs at {ratio:.2f} of bare decode + resize"
    )


def peak_memory(command: list[str]) -> float:
    """The largest resident memory, in MB, of a command and all its descendants together."""
    process = psutil.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            total = 0
            for one in [process, *process.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], total / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    assert code == 0, command
    return peak[0]


def memory(files: list[Path], scratch: Path, copies: int, teacher: str) -> None:
    """Print the peaks of both commands over the data and over ten times as much."""
    beamclip = str(Path(sys.executable).with_name("beamclip"))
    for verb in ("pack", "embed"):
        peaks = []
        for times in (1, 10):
            folder = tree(files, scratch / f"{verb}{times}", copies * times)
            settings = [
                "data.image_size=224",
                f"teacher.model=local-dir:{teacher}",
                "views.recipe=center",
                "data.source=folder",
            ]
            words = [
                beamclip,
                verb,
                "--preset",
                "imagenette",
                "--data",
                str(folder),
                "--storage",
                str(scratch / f"stores{times}"),
            ]
            peaks.append(
                peak_memory(words + [word for setting in settings for word in ("--set", setting)])
            )
        count = len(files) * copies
        print(
            f"{verb}: {count} images {peaks[0]:.0f} MB, {10 * count} images {peaks[1]:.0f} MB: {100 * (peaks[1] / peaks[0] - 1):+.1f} %",
            flush=True,
        )


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--copies", type=int)
    parser.add_argument(
        "--teacher", help="open_clip folder, for memory; default a tiny one of random weights"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        kinds = {".jpg", ".jpeg"}
        files = (
            sorted(p.resolve() for p in options.images.rglob("*") if p.suffix.lower() in kinds)
            if options.images
            else made_up(scratch / "made")
        )
        if options.what == "speed":
            return speed(files, scratch, options.copies or 20)
        if options.teacher is None:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from helpers import tiny

            options.teacher = str(tiny.make_teacher(scratch / "teacher"))
        return memory(files, scratch, options.copies or 2, options.teacher)


if __name__ == "__main__":
    main()
