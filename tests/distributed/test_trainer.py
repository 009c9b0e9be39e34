from beamclip.distributed import trainer


def test_a_restart_of_workers_is_delayed_so_that_a_stopped_trial_can_end(monkeypatch):
    delays = []
    monkeypatch.setattr(trainer.time, "sleep", delays.append)
    callback = trainer._CleanerCallback()
    callback.before_worker_group_start(None)
    assert delays == []
    callback.before_worker_group_start(None)
    callback.before_worker_group_start(None)
    assert delays == [trainer._RESTART_DELAY_SECONDS] * 2
