"""Measure the speed of packing against plain decoding, and the memory of packing and embedding.

    python tests/benchmarks/packing.py speed  [--images DIR] [--copies 20]
    python tests/benchmarks/packing.py memory [--images DIR] [--copies 2]

DIR holds JPEGs, in folders or not. Without it, synthetic photographs are used (500 x 375 px, smooth
with noise).

`speed` runs five rounds on the same files. Each round decodes and resizes them in one process per
core, then runs `pack` on a local Ray with the same number of cores. It prints the median ratio.

`memory` runs `beamclip pack` and `beamclip embed` over the images and over ten times as many. It
prints the peak resident memory of each command, summed over all its processes.
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
    """Write synthetic photographs as JPEGs: smooth with some noise, 500 x 375 px, quality 90."""
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
    """Fill train/CLASS and test/CLASS with `copies` links to every file, a seventh in test."""
    for copy in range(copies):
        for number, file in enumerate(files):
            split = "test" if number % 7 == 0 else "train"
            class_folder = folder / split / f"class{number % CLASSES}"
            class_folder.mkdir(parents=True, exist_ok=True)
            (class_folder / f"{copy}-{number}.jpg").symlink_to(file)
    return folder


def decode(path: str) -> int:
    """Decode and resize an image as packing does, without writing it."""
    return int(load_square_rgb(Path(path).read_bytes(), SIDE)[0, 0, 0])


def decoding_rate(folder: Path, cores: int) -> float:
    """Return images per second of plain decoding and resizing in one process per core.

    A first, untimed round starts the processes.
    """
    files = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(decode, files[: 16 * cores], chunksize=8))
        start = time.perf_counter()
        list(pool.map(decode, files, chunksize=16))
        return len(files) / (time.perf_counter() - start)


def packing_rate(folder: Path) -> float:
    """Return images per second of `pack` on the cluster, including the start of its actors."""
    from beamclip.data import pack
    from beamclip.distributed.shard_pool import ClusterRunner

    with tempfile.TemporaryDirectory(dir=folder.parent) as root:
        start = time.perf_counter()
        config = DataConfig(source="folder", path=str(folder), image_size=SIDE)
        images = pack(config, Path(root), run=ClusterRunner())
        return len(images) / (time.perf_counter() - start)


def speed(files: list[Path], scratch: Path, copies: int) -> None:
    """Measure both rates in five rounds; print them and the median ratio."""
    import ray

    cores = len(os.sched_getaffinity(0))
    folder = tree(files, scratch / "tree", copies)
    ray.init(address="local", num_cpus=cores, log_to_driver=False, include_dashboard=False)
    ratios = []
    for number in range(5):
        plain = decoding_rate(folder, cores)
        packed = packing_rate(folder)
        ratios.append(packed / plain)
        print(
            f"round {number + 1}: plain {plain:.0f} images/s, pack {packed:.0f} images/s",
            flush=True,
        )
    print(
        f"{len(files) * copies} images to {SIDE} px on {cores} cores: "
        f"pack runs at {statistics.median(ratios):.2f} of plain decoding and resizing"
    )


def peak_memory(command: list[str]) -> float:
    """Run a command; return the peak resident memory of it and all its descendants, in MB."""
    process = psutil.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )
    peak = [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            total = 0
            for member in [process, *process.children(recursive=True)]:
                try:
                    total += member.memory_info().rss
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
    """Print the peak memory of both commands, over the data and over ten times as much."""
    beamclip = str(Path(sys.executable).with_name("beamclip"))
    settings = [
        "data.image_size=224",
        f"teacher.model=local-dir:{teacher}",
        "views.recipe=center",
        "data.source=folder",
    ]
    for verb in ("pack", "embed"):
        peaks = []
        for times in (1, 10):
            folder = tree(files, scratch / f"{verb}{times}", copies * times)
            command = [
                beamclip,
                verb,
                "--preset",
                "imagenette",
                "--data",
                str(folder),
                "--storage",
                str(scratch / f"stores{times}"),
            ]
            for setting in settings:
                command += ["--set", setting]
            peaks.append(peak_memory(command))
        count = len(files) * copies
        growth = 100 * (peaks[1] / peaks[0] - 1)
        print(
            f"{verb}: {count} images {peaks[0]:.0f} MB, "
            f"{10 * count} images {peaks[1]:.0f} MB: {growth:+.1f} %",
            flush=True,
        )


def jpegs_below(folder: Path) -> list[Path]:
    """Return the JPEG files in a folder and its subfolders, sorted."""
    suffixes = {".jpg", ".jpeg"}
    return sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", choices=("speed", "memory"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--teacher", help="open_clip folder for `memory` (default: a tiny CLIP)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        files = jpegs_below(options.images) if options.images else made_up(scratch / "made")
        if options.measurement == "speed":
            return speed(files, scratch, options.copies or 20)
        if options.teacher is None:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from helpers import tiny

            options.teacher = str(tiny.make_teacher(scratch / "teacher"))
        return memory(files, scratch, options.copies or 2, options.teacher)


if __name__ == "__main__":
    main()
