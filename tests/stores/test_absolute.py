"""Trials get only absolute paths, since their folder and environment are not the driver's."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from helpers import tiny
from sqlalchemy.engine import make_url

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


def test_settings_from_the_environment_are_recorded(here, monkeypatch):
    monkeypatch.setenv("BEAMCLIP_STORAGE", "runs")
    monkeypatch.setenv("BEAMCLIP_CACHE", "shared")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    _, base = absolute_paths(PLAIN, load_experiment("demo"))
    assert (base.storage.path, base.storage.cache, base.tracking.uri) == (
        f"{here}/runs",
        f"{here}/shared",
        "http://server:5000",
    )


def test_a_password_from_the_environment_is_not_recorded(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    _, base = absolute_paths(PLAIN, load_experiment("demo"))
    assert base.tracking.uri is None


def test_a_uri_without_a_password_from_the_environment_is_recorded_and_checked_on_use(
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
def test_the_home_of_an_unknown_user_is_a_user_error(key):
    with pytest.raises(
        UserError, match=f"^{key} ~nosuchuser/x is not a valid path here .*; write another path"
    ):
        absolute_paths(
            PLAIN, load_experiment("demo", {"data.source": "folder", key: "~nosuchuser/x"})
        )


@pytest.mark.parametrize("key", ["data.class_names", "student.init"])
def test_a_path_that_is_too_long_is_a_user_error_in_the_base_and_in_a_sweep(key):
    with pytest.raises(
        UserError, match=rf"^{key} x* is not a valid path here \(File name too long\)"
    ):
        absolute_paths(PLAIN, load_experiment("demo", {key: "x" * 300}))
    with pytest.raises(UserError, match=rf"^{key} x* is not a valid path here"):
        absolute_paths(Sweep(name="s", space={key: choice("x" * 300)}), load_experiment("demo"))


def test_a_relative_database_in_a_folder_with_a_percent_sign_becomes_absolute(
    tmp_path, monkeypatch
):
    (tmp_path / "50%20").mkdir()
    monkeypatch.chdir(tmp_path / "50%20")
    given = load_experiment("demo", {"storage.path": "/x", "tracking.uri": "sqlite:///a%20b.db"})
    uri = absolute_paths(PLAIN, given)[1].tracking.uri
    assert make_url(uri).database == f"{tmp_path}/50%20/a b.db"


def test_uris_are_not_changed_and_a_missing_tracking_server_is_not_checked(here):
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


def test_a_path_of_a_student_is_absolute_in_every_setting(here):
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


def test_paths_in_a_nested_variant_are_absolute_too(here):
    variants = {"a": {"data": {"path": "rel/images", "source": "folder"}}}
    sweep, base = absolute_paths(
        Sweep(name="s", variants=variants, space={"variant": choice("a")}), load_experiment("demo")
    )
    assert trial_experiment(sweep, base, {"variant": "a"}).data.path == f"{here}/rel/images"


def test_an_open_clip_tag_is_not_taken_for_a_file_and_paths_of_weights_are_absolute(
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


def test_paths_of_images_lists_and_teachers_are_absolute(here):
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


def test_a_file_with_the_name_of_a_vocabulary_is_not_used_for_it(here):
    (here / "lvis").touch()
    assert (
        absolute_paths(PLAIN, load_experiment("demo", {"anchors.vocabulary": "lvis"}))[
            1
        ].anchors.vocabulary
        == "lvis"
    )


def test_absolute_paths_are_not_changed_again():
    once = absolute_paths(
        Sweep(name="s", space={"data.path": choice("a", "b")}),
        load_experiment("demo", {"storage.path": "out"}),
    )
    assert absolute_paths(*once) == once


def test_the_settings_text_has_no_locations():
    _, base = absolute_paths(
        PLAIN,
        load_experiment("demo", {"storage.path": "out", "storage.keep_checkpoints": 2, "seed": 3}),
    )
    kept = yaml.safe_load(settings_text(base))
    assert (kept["storage"], kept["tracking"], kept["seed"]) == ({"keep_checkpoints": 2}, {}, 3)


class Reached(UserError):
    """Raised with the experiment that would be passed to Ray."""


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
def test_commands_pass_absolute_paths_to_ray(preset, tmp_path, monkeypatch, module, verb):
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
