import dataclasses

import pytest
import torch

from beamclip.config import TowerConfig
from beamclip.preparation import throughput
from beamclip.preparation.throughput import (
    Throughput,
    measure_seconds_per_image,
    measure_seconds_per_text,
    measure_throughput,
)
from beamclip.teachers import Teacher


def test_a_given_batch_size_is_kept(teacher):
    given = dataclasses.replace(teacher, config=TowerConfig(model="x", batch_size=100))
    assert measure_throughput(given).batch_size == 100 and measure_throughput(given).seconds > 0


def find(monkeypatch, teacher, seconds):
    """Measure a teacher whose batches of each size take so many seconds per image."""

    def fake_measurement(teacher, size):
        if isinstance(seconds[size], Exception):
            raise seconds[size]
        return seconds[size]

    monkeypatch.setattr(throughput, "measure_seconds_per_image", fake_measurement)
    return measure_throughput(teacher)


def test_a_larger_batch_must_be_clearly_faster(teacher, monkeypatch):
    assert find(monkeypatch, teacher, {8: 1.0, 16: 0.5, 32: 0.3, 64: 0.29}) == Throughput(32, 0.3)
    assert find(monkeypatch, teacher, {8: 1.0, 16: 0.99}) == Throughput(8, 1.0)


def test_a_batch_that_does_not_fit_the_memory_is_not_used(teacher, monkeypatch):
    assert find(
        monkeypatch, teacher, {8: 1.0, 16: 0.5, 32: torch.OutOfMemoryError("full")}
    ) == Throughput(16, 0.5)


def test_the_search_stops_at_the_largest_batch_size(teacher, monkeypatch):
    assert (
        find(monkeypatch, teacher, {2**power: 1 / 2**power for power in range(3, 11)}).batch_size
        == 1024
    )


@pytest.mark.parametrize("size", [1, 8])
def test_time_per_image_is_measured(teacher, size):
    assert 0 < measure_seconds_per_image(teacher, size) < 1


@pytest.mark.parametrize("count", [1, 32])
def test_the_text_tower_is_measured_after_a_warm_up(teacher, monkeypatch, count):
    calls = []
    encode = Teacher.encode_texts
    monkeypatch.setattr(
        Teacher,
        "encode_texts",
        lambda self, texts: calls.append(list(texts)) or encode(self, texts),
    )
    assert 0 < measure_seconds_per_text(teacher, count) < 1
    assert [len(texts) for texts in calls] == [1, count] and len(set(calls[1])) == count


def test_the_time_is_divided_by_the_number_of_texts(teacher, monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    assert measure_seconds_per_text(teacher, 8) == 0.5
