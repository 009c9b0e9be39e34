import threading
import time

import numpy as np
import pytest
import torch

from beamclip.data.prefetch import Prefetcher

CPU = torch.device("cpu")


def numbers(count):
    return iter(np.arange(count).reshape(count, 1))


def live_threads():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def test_results_come_in_order_and_the_thread_ends():
    before = live_threads()
    assert list(Prefetcher(numbers(50), lambda ids: int(ids[0]) ** 2, CPU)) == [
        i * i for i in range(50)
    ]
    assert live_threads() == before


def test_a_limited_number_of_results_is_made_ahead_in_another_thread():
    made = []
    batches = iter(
        Prefetcher(numbers(50), lambda ids: made.append(threading.current_thread()) or True, CPU)
    )
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 4  # one taken, two in the queue, one waiting to be queued
    assert threading.main_thread() not in made
    batches.close()


def test_a_failure_is_raised_when_its_batch_is_requested():
    def make(ids):
        if ids[0] == 3:
            raise OSError("the disk is gone")
        return int(ids[0])

    before, got = live_threads(), []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(Prefetcher(numbers(10), make, CPU))
    assert got == [0, 1, 2]
    assert live_threads() == before


def test_a_failure_of_the_items_themselves_is_raised_too():
    def items():
        yield np.zeros(1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(Prefetcher(items(), lambda ids: ids, CPU))


@pytest.mark.parametrize("wanted", [1, 5])
def test_the_thread_ends_when_the_consumer_stops_early(wanted):
    before = live_threads()
    for number, _ in enumerate(Prefetcher(numbers(1000), lambda ids: ids, CPU), 1):
        if number == wanted:
            break
    assert live_threads() == before


def test_waiting_for_slow_batches_is_measured():
    slow = Prefetcher(numbers(4), lambda ids: time.sleep(0.05) or ids, CPU)
    assert len(list(slow)) == 4
    assert slow.waited >= 0.15


def test_batches_that_are_ready_cost_no_waiting():
    fast = Prefetcher(numbers(10), lambda ids: ids, CPU)
    for _ in fast:
        time.sleep(0.02)
    assert fast.waited < 0.1
