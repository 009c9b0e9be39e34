from beamclip.distributed import trainer as trial


def test_workers_that_start_again_leave_time_to_be_ended_with_them(monkeypatch):
    slept = []
    monkeypatch.setattr(trial.time, "sleep", slept.append)
    callback = trial._CleanerCallback()
    callback.before_worker_group_start(None)
    assert slept == []
    callback.before_worker_group_start(None)
    callback.before_worker_group_start(None)
    assert slept == [trial._LAST_BREATH] * 2
