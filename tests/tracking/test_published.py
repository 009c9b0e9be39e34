from beamclip.tracking import compare, load_published, write_published
from beamclip.tracking.server import search_all


def test_the_bar_to_beat_is_simreg():
    by_key = {result.key: result.top1 for result in load_published()}
    assert by_key["beamclip"] == 66.2
    assert by_key["supervised"] == 69.8
    assert max((v, k) for k, v in by_key.items() if k != "supervised") == (66.8, "simreg")
    assert all(result.source and result.protocol and result.dataset == "imagenet-1k" for result in load_published())


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


def test_a_published_number_is_never_the_best_trial(uri, finished):
    write_published(finished.client, finished.experiment_id)
    comparison = compare(uri, "temp")
    assert {row.kind for row in comparison.measured} == {"trial", "reference"}
    assert comparison.published[0].method == "supervised"
