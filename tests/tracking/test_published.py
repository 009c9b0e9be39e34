import subprocess
import sys

import pytest

from beamclip.reporting.comparison import compare
from beamclip.tracking import connect, load_published, write_published
from beamclip.tracking.client import search_all


def test_the_best_published_result_without_labels_is_simreg():
    by_key = {result.key: result.top1 for result in load_published()}
    assert by_key["beamclip"] == 66.2
    assert by_key["supervised"] == 69.8
    assert max((v, k) for k, v in by_key.items() if k != "supervised") == (66.8, "simreg")
    assert all(
        result.source and result.protocol and result.dataset == "imagenet-1k"
        for result in load_published()
    )


def test_published_results_are_written_once_and_stay_apart(opened):
    tracker = opened()
    assert write_published(tracker.client, tracker.experiment_id) == len(load_published())
    assert write_published(tracker.client, tracker.experiment_id) == 0
    runs = search_all(tracker.client, tracker.experiment_id, "tags.source = 'published'")
    assert len(runs) == len(load_published())
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["kind"] == "published"
        assert run.data.tags["dataset"] == "imagenet-1k"
        assert "mlflow.parentRunId" not in run.data.tags


def test_a_published_run_that_was_cut_off_is_written_again(opened):
    tracker = opened()
    tags = {"kind": "published", "beamclip.published": "simreg"}
    tracker.client.create_run(tracker.experiment_id, tags=tags)
    assert write_published(tracker.client, tracker.experiment_id) == len(load_published())


@pytest.mark.slow
def test_results_written_twice_or_partly_are_read_once(uri, finished, monkeypatch):
    write_published(finished.client, finished.experiment_id)
    monkeypatch.setattr("beamclip.tracking.published.read_published", lambda *arguments: [])
    write_published(finished.client, finished.experiment_id)
    finished.client.create_run(
        finished.experiment_id, tags={"kind": "published", "beamclip.published": "simreg"}
    )
    assert (
        len(search_all(finished.client, finished.experiment_id, "tags.kind = 'published'"))
        == 2 * len(load_published()) + 1
    )
    assert [row.metrics["linear_probe/test_top1"] for row in compare(uri, "temp").published] == [
        result.top1 for result in load_published()
    ]


START = """
import sys
from beamclip.config import Sweep, load_experiment
from beamclip.tracking import SweepTracker, write_published

sys.stdin.readline()
base = load_experiment("demo")
tracker = SweepTracker.open(sys.argv[1], None, Sweep(name="temp"), base, sys.argv[2])
write_published(tracker.client, tracker.experiment_id)
tracker.close()
"""


@pytest.mark.slow
def test_two_sweeps_may_start_at_once_without_a_database(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", START, uri, name], **pipes)
        for name in ("one", "other")
    ]
    for process in both:
        process.stdin.write("begin\n")
        process.stdin.flush()
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    client = connect(uri)
    experiment_id = client.get_experiment_by_name("temp").experiment_id
    assert len(search_all(client, experiment_id, "tags.kind = 'published'")) == len(
        load_published()
    )
    assert {
        run.info.status for run in search_all(client, experiment_id, "tags.kind = 'sweep'")
    } == {"FINISHED"}


def test_a_published_number_is_never_the_best_trial(uri, finished):
    write_published(finished.client, finished.experiment_id)
    comparison = compare(uri, "temp")
    assert {row.kind for row in comparison.measured} == {"trial", "reference"}
    assert comparison.published[0].method == "supervised"
