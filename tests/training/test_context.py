import pytest
import torch
from helpers.gloo import in_processes
from torch import nn

from beamclip.training.context import Context


def everything(count):
    """All rows, [count, 3]."""
    return torch.arange(3.0 * count).reshape(count, 3)


def test_a_single_process_needs_no_process_group():
    context, rows = Context(), everything(4)
    assert torch.equal(context.mean(rows), rows)
    assert torch.equal(context.gather_rows(rows), rows)


def gathered(rank, world_size, counts):
    context = Context(rank, world_size)
    labels = [context.gather_rows(torch.arange(count)[rank::world_size]) for count in counts]
    return [context.gather_rows(everything(count)[rank::world_size]) for count in counts], labels


def test_gathered_rows_are_in_order_on_every_worker():
    counts = [1, 2, 5, 8]
    for rows, labels in in_processes(2, gathered, counts):
        assert [part.tolist() for part in rows] == [everything(count).tolist() for count in counts]
        assert [part.tolist() for part in labels] == [list(range(count)) for count in counts]


def meaned(rank, world_size):
    values = torch.tensor([1.0, 2.0]) * (rank + 1)
    return Context(rank, world_size).mean(values), values


def test_the_mean_is_over_workers_and_does_not_change_its_argument():
    for rank, (mean, values) in enumerate(in_processes(2, meaned)):
        assert mean.tolist() == [1.5, 3.0]
        assert values.tolist() == [1.0 + rank, 2.0 + 2 * rank]


def shared(rank, world_size):
    norm = nn.BatchNorm1d(3)
    norm(everything(4) * (rank + 1))
    own_mean = norm.running_mean.clone()
    Context(rank, world_size).share_buffers(norm)
    return own_mean, dict(norm.named_buffers())


def test_shared_buffers_are_those_of_rank_0():
    (own_mean_0, shared_0), (own_mean_1, shared_1) = in_processes(2, shared)
    assert not torch.equal(own_mean_0, own_mean_1)
    assert torch.equal(shared_0["running_mean"], own_mean_0)
    assert all(
        torch.equal(shared_0[name], shared_1[name])
        for name in ("running_mean", "running_var", "num_batches_tracked")
    )


def failing(rank, world_size):
    raise ValueError(f"worker {rank} of {world_size}")


def test_a_worker_s_failure_reaches_the_test():
    with pytest.raises(ValueError, match=r"worker \d of 2"):
        in_processes(2, failing)
