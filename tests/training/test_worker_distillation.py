"""Complete runs with distillation other than csm, and with sums; csm is in test_worker.py."""

import math

import pytest
import torch
from helpers.gloo import in_processes

from beamclip.config import UserError, with_values
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from tests.training.test_worker import curves, losses, on_rank, same_bits, train, weights

pytestmark = pytest.mark.slow

CLUSTERS = {"clusters": 8, "negatives": 2, "margin": 0.1}
METHODS = {
    "feature": {},
    "simreg": {"student.projector": "mlp4"},
    # Not a multiple of the batch.
    "seed": {"objective.seed": {"queue": 40}},
    "compress": {},
    "image_queue": {"objective.image_queue": {"queue": 100}},
    "csm+simreg": {"objective.terms": {"simreg": 0.5}},
    "seed+feature": {},
    # Two views of each image, and a head in addition to the projector.
    "csm+simclr": {"objective.simclr": {"hidden": 32, "width": 16}},
    # A batch smaller than the number of clusters: some clusters are drawn.
    "clip_cid": {"objective.clip_cid": CLUSTERS, "optimizer.batch_size": 4},
}
QUEUES = {"seed": 40, "compress": 128, "image_queue": 100, "seed+feature": 128}


def method(experiment, stores, name, **values):
    """The experiment with another objective, and its stores."""
    other = with_values(
        experiment,
        {"objective.name": name, "optimizer.warmup_epochs": 0.25, **METHODS[name], **values},
    )
    return other, prepare(other, PreparationContext(stores))


@pytest.fixture(scope="module", params=list(METHODS))
def whole_run(request, experiment, stores, tmp_path_factory):
    """A finished run on one worker: (name, (experiment, assets), reports, checkpoint folder)."""
    prepared = method(experiment, stores, request.param)
    folder = tmp_path_factory.mktemp("whole")
    return request.param, prepared, train(*prepared, folder), folder


def curve(reports, key="loss"):
    return [
        value
        for metrics in reports
        for name, value, _ in metrics.get("history", [])
        if name == f"train/{key}"
    ]


def goes_down(values):
    quarter = len(values) // 4
    return sum(values[-quarter:]) < 0.9 * sum(values[:quarter])


def test_it_learns_and_zero_shot_is_reported(whole_run):
    name, _, reports, _ = whole_run
    assert all(map(math.isfinite, losses(reports)))
    # While a queue fills, the loss is over more and more images.
    assert name in QUEUES or goes_down(losses(reports))
    assert {"zero_shot/val_top1"} <= reports[0].keys()
    assert {"zero_shot/test_top1", "linear_probe/test_top1", "knn/test_top1"} <= reports[-1].keys()


@pytest.mark.parametrize("name", ["seed", "compress", "image_queue"])
def test_with_a_full_queue_the_loss_decreases(experiment, stores, tmp_path, name):
    reports = train(
        *method(experiment, stores, name, **{f"objective.{name}": {"queue": 16}}),
        tmp_path,
        die_after=2,
    )
    assert goes_down(losses(reports)[1:])


def test_a_run_that_was_killed_resumes_exactly(whole_run, tmp_path):
    _, prepared, reports, folder = whole_run
    first = train(*prepared, tmp_path / "first", die_after=1)
    # A new process has another random state.
    torch.manual_seed(12345)
    rest = train(*prepared, tmp_path / "rest", checkpoint=tmp_path / "first" / "0")
    assert curves(first + rest) == curves(reports)
    assert same_bits(weights(tmp_path / "rest" / "1"), weights(folder / "2"))


def test_terms_of_a_sum_are_reported_separately_and_add_up(experiment, stores, tmp_path):
    reports = train(*method(experiment, stores, "csm+simreg"), tmp_path, die_after=1)
    parts = [curve(reports, key) for key in ("csm_loss", "simreg_loss", "csm_top1_agreement")]
    assert len(set(map(len, parts))) == 1
    assert losses(reports) == pytest.approx(
        [csm + 0.5 * simreg for csm, simreg, _ in zip(*parts, strict=True)], rel=1e-5
    )


def test_terms_of_clip_cid_are_reported_separately(experiment, stores, tmp_path):
    reports = train(*method(experiment, stores, "clip_cid"), tmp_path, die_after=1)
    parts = [curve(reports, key) for key in ("cluster", "cluster_kl", "instance")]
    assert losses(reports) == pytest.approx(
        [sum(step) for step in zip(*parts, strict=True)], rel=1e-5
    )


@pytest.mark.parametrize(("name", "rows"), QUEUES.items())
def test_the_queue_is_used_and_in_the_checkpoint(experiment, stores, tmp_path, name, rows):
    prepared = method(experiment, stores, name)
    reports = train(*prepared, tmp_path / "with", die_after=2)
    path = tmp_path / "with" / "0" / "state.pt"
    state = torch.load(path, weights_only=True)
    (key,) = state["objective"]
    assert state["objective"][key].shape == (rows, 16)
    state["objective"][key] = state["objective"][key].flip(1)
    torch.save(state, path)
    rest = train(*prepared, tmp_path / "rest", die_after=1, checkpoint=path.parent)
    assert losses(rest)[0] != losses(reports)[len(losses(reports)) // 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seed", "csm+simreg", "clip_cid"])
def test_two_workers_give_the_single_worker_s_curve(experiment, stores, tmp_path, name):
    prepared = method(experiment, stores, name)
    alone = train(*prepared, tmp_path / "alone", die_after=2)
    both = in_processes(2, on_rank, *prepared, tmp_path / "both", 2)
    assert curves(both[0]) == curves(both[1])
    assert losses(both[0]) == pytest.approx(losses(alone), rel=1e-3)
    rest = in_processes(2, on_rank, *prepared, tmp_path / "rest", 1, tmp_path / "both" / "0")
    assert curves(rest[0]) == curves(both[0])[1:]


def test_a_queue_longer_than_the_training_images_is_a_user_error_before_anything_starts(
    experiment, stores
):
    with pytest.raises(
        UserError, match=r"objective\.seed\.queue is 129, but there are 128 training images"
    ):
        method(experiment, stores, "seed", **{"objective.seed.queue": 129})
