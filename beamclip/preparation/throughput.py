"""Measure a teacher's throughput and find its best batch size."""

import time
from dataclasses import dataclass

import torch

from beamclip.teachers import Teacher

_BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
# A given batch size is measured on a batch of at most this size.
_LARGEST_PROBE = 32
# A doubled batch size must be this much faster to be worth its memory.
_MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class Throughput:
    """Result of a measurement.

    Attributes:
        batch_size: images to encode at once.
        seconds: seconds per image at that batch size.
    """

    batch_size: int
    seconds: float


def measure_seconds_per_image(teacher: Teacher, batch_size: int) -> float:
    """Measure the time per image in batches of this size, on one batch after a warm-up."""
    size = teacher.pixels.size
    pixels = torch.zeros(batch_size, 3, size, size, device=teacher.device)
    teacher.encode_images(pixels[: min(batch_size, 8)])
    start = time.perf_counter()
    # .cpu() waits for the device.
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

    Without `teacher.batch_size`, it is the smallest size that is nearly as fast as the next larger
    one, within the memory of the device.
    """
    configured = teacher.config.batch_size
    if configured:
        probe_size = min(configured, _LARGEST_PROBE)
        return Throughput(configured, measure_seconds_per_image(teacher, probe_size))
    best = Throughput(_BATCH_SIZES[0], measure_seconds_per_image(teacher, _BATCH_SIZES[0]))
    for batch_size in _BATCH_SIZES[1:]:
        try:
            candidate = Throughput(batch_size, measure_seconds_per_image(teacher, batch_size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return best
        if candidate.seconds * _MIN_SPEEDUP > best.seconds:
            return best
        best = candidate
    return best
