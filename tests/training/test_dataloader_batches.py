import numpy as np
import pytest

from beamclip.training.dataloader import epoch_order, rank_batches

IDS = np.arange(10, 110)


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
