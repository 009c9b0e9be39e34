"""Trials run in other folders and with another environment than the sweep's driver: nothing relative may reach them."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from helpers import tiny

from beamclip.cli import balance as balancing
from beamclip.cli import stores as storing
from beamclip.cli.balance import balance_images
from beamclip.cli.stores import embed_images, pack_images
from beamclip.config import Sweep, UserError, choice, load_experiment, trial_experiment
from beamclip.stores.absolute import absolute_paths, settings_text
from beamclip.tracking import connect

PLAIN = Sweep(name="s")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_storage_stores_and_tracking_are_absolute(here):
    _, base = absolute_paths(
        PLAIN, load_experiment("demo", {"storage.path": "out", "tracking.uri": "sqlite:///runs.db"})
    )
    assert (base.storage.path, base.storage.cache) == (f"{here}/out", f"{here}/out/stores")
    assert base.tracking.uri == f"sqlite:///{here}/runs.db"


def test_what_the_environment_chooses_is_written_down(here, monkeypatch):
    monkeypatch.setenv("BEAMCLIP_STORAGE", "runs")
    monkeypatch.setenv("BEAMCLIP_CACHE", "shared")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    _, base = absolute_paths(PLAIN, load_experiment("demo"))
    assert (base.storage.path, base.storage.cache, base.tracking.uri) == (
        f"{here}/runs",
        f"{here}/shared",
        "http://server:5000",
    )


def test_a_password_of_the_environment_is_written_down_nowhere(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    _, base = absolute_paths(PLAIN, load_experiment("demo"))
    assert base.tracking.uri is None


def test_an_address_of_the_environment_without_a_password_is_written_down_as_it_is_and_judged_where_it_is_opened(
    monkeypatch,
):
    for uri in ("postgresql://me@db/mlflow", "http://[server]:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert absolute_paths(PLAIN, load_experiment("demo"))[1].tracking.uri == uri
    with pytest.raises(UserError, match=r"^tracking.uri http://\[server\]:5000 can't be used"):
        connect(uri)


@pytest.mark.parametrize(
    "key",
    [
        "data.path",
        "data.class_names",
        "anchors.vocabulary",
        "student.init",
        "storage.path",
        "storage.cache",
    ],
)
def test_another_user_s_home_that_is_not_there_is_a_sentence(key):
    with pytest.raises(
        UserError, match=f"^{key} ~nosuchuser/x is not a valid path here .*; write another path"
    ):
        absolute_paths(
            PLAIN, load_experiment("demo", {"data.source": "folder", key: "~nosuchuser/x"})
        )


@pytest.mark.parametrize("key", ["data.class_names", "student.init"])
def test_a_name_longer_than_a_file_s_can_be_is_a_sentence_in_the_base_and_in_a_sweep(key):
    with pytest.raises(
        UserError, match=rf"^{key} x* is not a valid path here \(File name too long\)"
    ):
        absolute_paths(PLAIN, load_experiment("demo", {key: "x" * 300}))
    with pytest.raises(UserError, match=rf"^{key} x* is not a valid path here"):
        absolute_paths(Sweep(name="s", space={key: choice("x" * 300)}), load_experiment("demo"))


def test_uris_stay_as_they_are_and_a_missing_tracking_server_is_said_elsewhere(here):
    values = {
        "storage.path": "s3://bucket/runs",
        "data.path": "s3://bucket/images",
        "data.source": "folder",
    }
    _, base = absolute_paths(
        PLAIN, load_experiment("demo", values | {"student.init": "s3://bucket/student.safetensors"})
    )
    assert (base.storage.path, base.storage.cache) == (
        "s3://bucket/runs",
        f"{here}/home/beamclip/stores",
    )
    assert (base.data.path, base.student.init, base.tracking.uri) == (
        "s3://bucket/images",
        "s3://bucket/student.safetensors",
        None,
    )


def test_a_student_s_file_is_absolute_wherever_it_is_named(here):
    (here / "student.safetensors").touch()
    inits = ("random", "student.safetensors", "run:a", "variant:a", "pretrained", "no such file")
    variants = {"a": {"student.init": "student.safetensors", "seed": 3}}
    sweep = Sweep(
        name="s", variants=variants, space={"student.init": choice(*inits), "variant": choice("a")}
    )
    sweep, base = absolute_paths(
        sweep, load_experiment("demo", {"student.init": "student.safetensors"})
    )
    file = f"{here}/student.safetensors"
    assert base.student.init == file
    assert sweep.space["student.init"].values == ("random", file, *inits[2:])
    assert sweep.variants == {"a": {"student.init": file, "seed": 3}}
    assert sweep.space["variant"].values == ("a",)


def test_places_in_a_nested_variant_are_absolute_too(here):
    variants = {"a": {"data": {"path": "rel/images", "source": "folder"}}}
    sweep, base = absolute_paths(
        Sweep(name="s", variants=variants, space={"variant": choice("a")}), load_experiment("demo")
    )
    assert trial_experiment(sweep, base, {"variant": "a"}).data.path == f"{here}/rel/images"


def test_a_tag_of_open_clip_s_is_not_taken_for_a_file_of_its_name_and_weights_are_found_from_anywhere(
    here,
):
    for name in ("openai", "weights.pt", "other.bin"):
        (here / name).touch()
    others = [
        {"model": "ViT-B-16", "pretrained": "other.bin"},
        {"model": "ViT-B-16", "pretrained": "openai"},
    ]
    for given, found in (
        ("openai", "openai"),
        ("weights.pt", f"{here}/weights.pt"),
        ("./openai", f"{here}/openai"),
    ):
        values = {
            "teacher.model": "ViT-B-32",
            "teacher.pretrained": given,
            "teacher.others": others,
        }
        _, base = absolute_paths(PLAIN, load_experiment("demo", values))
        assert [one.pretrained for one in base.teacher.all()] == [
            found,
            f"{here}/other.bin",
            "openai",
        ]


def test_images_lists_and_teachers_are_found_from_anywhere(here):
    (here / "names.txt").touch()
    values = {
        "data.source": "folder",
        "data.path": "~/images",
        "data.class_names": "names.txt",
        "anchors.vocabulary": "names.txt",
    }
    values |= {
        "teacher.model": "local-dir:clip",
        "teacher.others": [{"model": "local-dir:other"}, {"model": "demo"}],
    }
    _, base = absolute_paths(PLAIN, load_experiment("demo", values))
    assert base.data.path == f"{here}/home/images"
    assert base.data.class_names == base.anchors.vocabulary == f"{here}/names.txt"
    assert [one.model for one in base.teacher.all()] == [
        f"local-dir:{here}/clip",
        f"local-dir:{here}/other",
        "demo",
    ]


def test_a_file_that_is_called_like_a_vocabulary_is_not_taken_for_one(here):
    (here / "lvis").touch()
    assert (
        absolute_paths(PLAIN, load_experiment("demo", {"anchors.vocabulary": "lvis"}))[
            1
        ].anchors.vocabulary
        == "lvis"
    )


def test_pinning_again_changes_nothing():
    once = absolute_paths(
        Sweep(name="s", space={"data.path": choice("a", "b")}),
        load_experiment("demo", {"storage.path": "out"}),
    )
    assert absolute_paths(*once) == once


def test_a_preset_to_make_it_again_says_nothing_of_where_this_one_lies():
    _, base = absolute_paths(
        PLAIN,
        load_experiment("demo", {"storage.path": "out", "storage.keep_checkpoints": 2, "seed": 3}),
    )
    kept = yaml.safe_load(settings_text(base))
    assert (kept["storage"], kept["tracking"], kept["seed"]) == ({"keep_checkpoints": 2}, {}, 3)


class Reached(UserError):
    """With the experiment that would be handed over."""


def hand_over(experiment, repair):
    raise Reached("", experiment)


@pytest.mark.parametrize(
    ("module", "verb"),
    [
        (storing, pack_images),
        (storing, partial(embed_images, verify=0)),
        (balancing, partial(balance_images, arguments=[])),
    ],
)
def test_what_a_verb_hands_to_ray_is_found_from_any_folder(
    preset, tmp_path, monkeypatch, module, verb
):
    monkeypatch.setattr(module, "open_preparation", hand_over)
    whole = tiny.experiment(preset, tmp_path / "out", balance__remove=0.5)
    monkeypatch.chdir(Path(whole.data.path).parent)
    typed = {
        "data__path": Path(whole.data.path).name,
        "storage__path": "out",
        "balance__remove": 0.5,
    }
    with pytest.raises(Reached) as reached:
        verb(tiny.experiment(preset, "out", **typed), repair=False)
    handed = reached.value.args[1]
    assert (handed.data.path, handed.storage.path) == (
        whole.data.path,
        f"{Path.cwd()}/out",
    )
