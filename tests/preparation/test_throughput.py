import dataclasses

import pytest
import torch

from beamclip.config import TowerConfig
from beamclip.preparation import throughput as pace
from beamclip.preparation.throughput import (
    Throughput,
    measure_throughput,
    seconds_per_image,
    seconds_per_text,
)
from beamclip.teachers import Teacher


def test_a_batch_size_that_is_given_is_kept(teacher):
    given = dataclasses.replace(teacher, config=TowerConfig(model="x", batch_size=100))
    assert measure_throughput(given).batch_size == 100 and measure_throughput(given).seconds > 0


def found(monkeypatch, teacher, seconds):
    """What is found where a batch of each size takes so many seconds an image."""

    def take(teacher, size):
        if isinstance(seconds[size], Exception):
            raise seconds[size]
        return seconds[size]

    monkeypatch.setattr(pace, "seconds_per_image", take)
    return measure_throughput(teacher)


def test_a_larger_batch_must_be_worth_its_memory(teacher, monkeypatch):
    assert found(monkeypatch, teacher, {8: 1.0, 16: 0.5, 32: 0.3, 64: 0.29}) == Throughput(32, 0.3)
    assert found(monkeypatch, teacher, {8: 1.0, 16: 0.99}) == Throughput(8, 1.0)


def test_what_does_not_fit_the_memory_is_not_taken(teacher, monkeypatch):
    assert found(
        monkeypatch, teacher, {8: 1.0, 16: 0.5, 32: torch.OutOfMemoryError("full")}
    ) == Throughput(16, 0.5)


def test_the_largest_is_the_end(teacher, monkeypatch):
    assert (
        found(monkeypatch, teacher, {2**power: 1 / 2**power for power in range(3, 11)}).batch_size
        == 1024
    )


@pytest.mark.parametrize("size", [1, 8])
def test_really_measures(teacher, size):
    assert 0 < seconds_per_image(teacher, size) < 1


@pytest.mark.parametrize("count", [1, 32])
def test_the_text_tower_s_pace_is_that_of_a_batch_after_a_first_for_warmth(
    teacher, monkeypatch, count
):
    asked, encode = [], Teacher.encode_texts
    monkeypatch.setattr(
        Teacher,
        "encode_texts",
        lambda self, texts: asked.append(list(texts)) or encode(self, texts),
    )
    assert 0 < seconds_per_text(teacher, count) < 1
    assert [len(texts) for texts in asked] == [1, count] and len(set(asked[1])) == count


def test_the_time_is_shared_out_over_the_texts(teacher, monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    assert seconds_per_text(teacher, 8) == 0.5
