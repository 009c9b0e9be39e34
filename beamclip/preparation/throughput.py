"""How fast a teacher is, and at which batch size it is fastest."""

import time
from dataclasses import dataclass

import torch

from beamclip.teachers import Teacher

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
_WORTH = 1.05  # a batch twice as large must be so much faster to be worth its memory


def seconds_per_image(teacher: Teacher, batch_size: int) -> float:
    """How long the teacher takes for an image in batches of this size, measured now on one batch after a first for warmth."""
    pixels = torch.zeros(
        batch_size, 3, teacher.pixels.size, teacher.pixels.size, device=teacher.device
    )
    teacher.encode_images(pixels[: min(batch_size, 8)])
    start = time.perf_counter()
    teacher.encode_images(pixels).cpu()  # which waits for the device
    return (time.perf_counter() - start) / batch_size


def seconds_per_text(teacher: Teacher, count: int) -> float:
    """How long the text tower takes for a sentence, measured now on so many after a first for warmth."""
    teacher.encode_texts(["a photo of a crane."])
    start = time.perf_counter()
    teacher.encode_texts([f"a photo of a crane, number {number}." for number in range(count)])
    return (time.perf_counter() - start) / count


@dataclass(frozen=True)
class Throughput:
    """What was found by trying: images to encode at once, and seconds an image takes then."""

    batch_size: int
    seconds: float


def measure_throughput(teacher: Teacher) -> Throughput:
    """The pace at the batch size given, or else at the smallest that is nearly as fast as the next one, within the memory there is."""
    if teacher.config.batch_size:
        return Throughput(
            teacher.config.batch_size,
            seconds_per_image(teacher, min(teacher.config.batch_size, _SIZES[2])),
        )
    best = Throughput(_SIZES[0], seconds_per_image(teacher, _SIZES[0]))
    for size in _SIZES[1:]:
        try:
            now = Throughput(size, seconds_per_image(teacher, size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return best
        if now.seconds * _WORTH > best.seconds:
            return best
        best = now
    return best
