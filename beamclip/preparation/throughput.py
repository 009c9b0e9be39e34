"""Measure a teacher's throughput and find its best batch size."""

import time
from dataclasses import dataclass

import torch

from beamclip.teachers import Teacher

_BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
# A configured batch size is not searched for, so a small batch is enough to estimate the time per
# image.
_MAX_PROBE_SIZE = 32
# A doubled batch size must be this many times as fast per image to be worth its memory.
_MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class Throughput:
    """How fast a teacher encodes images on one device.

    Attributes:
        batch_size: number of images to encode at once.
        seconds: seconds per image at that batch size.
    """

    batch_size: int
    seconds: float


def measure_seconds_per_image(teacher: Teacher, batch_size: int) -> float:
    """Measure the time per image in batches of this size, on one batch after a warm-up."""
    size = teacher.pixels.size
    pixels = torch.zeros(batch_size, 3, size, size, device=teacher.device)
    # The first call also pays for CUDA's start and the choice of kernels.
    teacher.encode_images(pixels[:8])
    start = time.perf_counter()
    # CUDA kernels run asynchronously; .cpu() waits for them.
    teacher.encode_images(pixels).cpu()
    return (time.perf_counter() - start) / batch_size


def measure_seconds_per_text(teacher: Teacher, count: int) -> float:
    """Measure the time per sentence of the text tower, on `count` sentences after a warm-up."""
    teacher.encode_texts(["a photo of a crane."])
    start = time.perf_counter()
    teacher.encode_texts([f"a photo of a crane, number {number}." for number in range(count)])
    return (time.perf_counter() - start) / count


def measure_throughput(teacher: Teacher) -> Throughput:
    """Measure the throughput at the configured batch size, or find a good batch size.

    If `teacher.batch_size` is not set, sizes are doubled from 8 to 1024 until the next one is less
    than 5 % faster per image or does not fit into the device's memory.
    """
    configured = teacher.config.batch_size
    if configured:
        probe_size = min(configured, _MAX_PROBE_SIZE)
        return Throughput(configured, measure_seconds_per_image(teacher, probe_size))
    best = Throughput(_BATCH_SIZES[0], measure_seconds_per_image(teacher, _BATCH_SIZES[0]))
    for batch_size in _BATCH_SIZES[1:]:
        try:
            candidate = Throughput(batch_size, measure_seconds_per_image(teacher, batch_size))
        except torch.OutOfMemoryError:
            # Free what the failed attempt has cached, so that the work itself can have it.
            torch.cuda.empty_cache()
            return best
        if candidate.seconds * _MIN_SPEEDUP > best.seconds:
            return best
        best = candidate
    return best
