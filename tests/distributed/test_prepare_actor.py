from beamclip.config import load_experiment
from beamclip.distributed import prepare_actor
from beamclip.distributed.prepare_actor import PrepareActor


def actor_with(tmp_path, **resources):
    experiment = load_experiment("demo")
    return PrepareActor(
        {"key": experiment.model_dump_json()}, str(tmp_path), repair=False, resources=resources
    )


def test_with_gpus_throughput_and_precision_are_measured_on_one(tmp_path, monkeypatch):
    """The actor itself holds no GPU."""
    called = []

    def run_on_gpu(function, *arguments):
        called.append(function)
        return "bf16"

    monkeypatch.setattr(prepare_actor, "_run_on_gpu", run_on_gpu)
    context = actor_with(tmp_path, CPU=2.0, GPU=1.0)._open_context()
    assert context.precision == "bf16" and called == [prepare_actor._auto_precision]
    assert context.measure_throughput is prepare_actor._throughput_on_gpu


def test_without_gpus_throughput_and_precision_are_measured_here(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_actor, "_run_on_gpu", None)
    context = actor_with(tmp_path, CPU=2.0)._open_context()
    assert context.precision is None
    assert context.measure_throughput is not prepare_actor._throughput_on_gpu
