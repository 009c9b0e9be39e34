import threading
import time

import numpy as np
import pytest
import torch

from beamclip.training.batches import Ahead, epoch_order, rank_batches

IDS = np.arange(10, 110)
CPU = torch.device("cpu")


def test_the_order_is_a_permutation_of_seed_and_epoch_alone():
    order = epoch_order(IDS, 3, 7)
    np.random.seed(0)
    epoch_order(IDS, 3, 6)
    assert np.array_equal(epoch_order(IDS, 3, 7), order)
    assert np.array_equal(np.sort(order), IDS)
    for other in (epoch_order(IDS, 3, 8), epoch_order(IDS, 4, 7), epoch_order(IDS, 7, 3)):
        assert not np.array_equal(other, order)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_ranks_together_have_the_single_worker_s_global_batches(workers):
    order = epoch_order(IDS, 0, 0)
    alone = [order[i : i + 16] for i in (0, 16, 32, 48, 64, 80)]  # the last 4 of 100 fill no batch
    shares = [list(rank_batches(order, 16, rank, workers)) for rank in range(workers)]
    together = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
    assert [batch.tolist() for batch in together] == [batch.tolist() for batch in alone]


@pytest.mark.parametrize(("samples", "batches"), [(15, 0), (16, 1), (31, 1), (32, 2)])
def test_an_incomplete_batch_is_left_out(samples, batches):
    assert len(list(rank_batches(IDS[:samples], 16, 1, 2))) == batches


def numbers(count):
    return iter(np.arange(count).reshape(count, 1))


def live_threads():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def test_results_come_in_order_and_the_thread_ends():
    before = live_threads()
    assert list(Ahead(numbers(50), lambda ids: int(ids[0]) ** 2, CPU)) == [i * i for i in range(50)]
    assert live_threads() == before


def test_results_are_made_ahead_in_another_thread_and_not_far():
    made = []
    batches = iter(Ahead(numbers(50), lambda ids: made.append(threading.current_thread()) or True, CPU))
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 4  # one taken, two in the queue, one in hand
    assert threading.main_thread() not in made
    batches.close()


def test_a_failure_is_raised_where_the_batch_was_wanted():
    def make(ids):
        if ids[0] == 3:
            raise OSError("the disk is gone")
        return int(ids[0])

    before, got = live_threads(), []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(Ahead(numbers(10), make, CPU))
    assert got == [0, 1, 2]
    assert live_threads() == before


def test_a_failure_of_the_items_themselves_is_raised_too():
    def items():
        yield np.zeros(1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(Ahead(items(), lambda ids: ids, CPU))


@pytest.mark.parametrize("wanted", [1, 5])
def test_the_thread_ends_when_the_consumer_stops_early(wanted):
    before = live_threads()
    for number, _ in enumerate(Ahead(numbers(1000), lambda ids: ids, CPU), 1):
        if number == wanted:
            break
    assert live_threads() == before


def test_waiting_is_measured_where_batches_are_slow():
    slow = Ahead(numbers(4), lambda ids: time.sleep(0.05) or ids, CPU)
    assert len(list(slow)) == 4
    assert slow.waited >= 0.15


def test_batches_that_are_ready_cost_no_waiting():
    fast = Ahead(numbers(10), lambda ids: ids, CPU)
    for _ in fast:
        time.sleep(0.02)
    assert fast.waited < 0.1
