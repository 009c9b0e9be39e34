import shutil

from helpers import tiny

from beamclip.config import load_experiment
from beamclip.distributed import prepare_actor
from beamclip.distributed.prepare_actor import PrepareActor
from beamclip.stores.moved_places import with_moved_places


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


def test_inputs_have_the_same_keys_in_another_place_and_others_have_not(
    images, color_teacher, tmp_path
):
    first, now = tmp_path / "first", tmp_path / "now"
    shutil.copytree(images, first / "images")
    shutil.copytree(color_teacher, first / "teacher")
    preset = tiny.write_preset(tmp_path / "tiny.yaml", first / "images", first / "teacher")
    experiment = tiny.experiment(preset, tmp_path / "storage")
    places = {
        "data.path": {f"{first}/images": f"{now}/images"},
        "teacher.model": {f"local-dir:{first}/teacher": f"local-dir:{now}/teacher"},
    }

    def identify(moved):
        text = with_moved_places(experiment, moved).model_dump_json()
        (keys,) = PrepareActor({"key": text}, str(tmp_path), False, {"CPU": 1}).identify().values()
        return keys

    begun = identify({})
    first.rename(now)
    assert identify(places) == begun
    (now / "images" / "train" / "red" / "0.jpg").unlink()
    assert identify(places)["packed"] != begun["packed"]
    assert identify(places)["teachers"] == begun["teachers"]
