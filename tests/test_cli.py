"""Whatever a user can get wrong is one sentence on stderr and exit code 2, and leaves nothing behind."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from beamclip import __version__, cli
from beamclip.cli import main, sweep_main
from beamclip.config import Sweep, UserError, choice
from beamclip.training.preparing import prepare
from beamclip.training.workshop import Workshop

TAU_T = "objective.teacher_temperature"


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def complaint(capsys):
    """`complaint("train", …)`: what is wrong, without the leading word; asserts that nothing else was said."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert caught.value.code == 2
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("beamclip: ")
        return line.removeprefix("beamclip: ")

    return call


def left_behind(folder):
    """Files that a failure left, beside empty locks and a database."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".lock", ".db"))]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "objective.teacher_temp=1"], "objective.teacher_temp is not a setting; did you mean objective.teacher_temperature"),
        (["--set", "optimiser.lr=fast"], "optimiser.lr is 'fast'"),
        (["--set", "optimiser.lr"], "--set optimiser.lr has no value"),
        (["--set", f"{TAU_T}=0"], f"{TAU_T} is 0"),
        (["--set", f"{TAU_T}=-1"], f"{TAU_T} is -1"),
        (["--set", "views.recipe=simcrl"], "recipe simcrl does not exist; did you mean simclr"),
        (["--set", "anchors.prompt_set=openai_81"], "did you mean openai_80"),
        (["--preset", "imagnet"], "preset imagnet does not exist; did you mean imagenet"),
        (["--preset", "no/such.yaml"], "no/such.yaml can't be read"),
        (["--workers", "3"], "can't be shared evenly by scaling.workers 3"),
        (["--workers", "0"], "scaling.workers is 0"),
        (["--name", "a b"], "name is 'a b'"),
        (["--storage", "ftp5://bucket/x"], "storage ftp5://bucket/x"),
    ],
)
def test_a_bad_setting_is_named(complaint, storage, options, says):
    assert says in complaint("train", "--storage", storage, *options)
    assert not storage.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--space", f"{TAU_T}=0.1"], f"--space {TAU_T} needs a list"),
        (["--space", f"{TAU_T}=[]"], "needs a list"),
        (["--space", TAU_T], f"--space {TAU_T} has no value"),
        (["--space", "optimiser.betas=[1]"], "optimiser.betas is not a setting"),
        (["--space", f"{TAU_T}=[0.1, 0]"], f"{TAU_T} is 0: input should be greater than 0 (in the trial {TAU_T}=0)"),
        (["--space", "probe.inverse_l2=[[1], [2]]"], "space.probe.inverse_l2"),
        (["--space", f"{TAU_T}={{low: 1, high: 2}}"], "is a range, which a grid can't walk"),
        (["--space", f"{TAU_T}={{low: 2, high: 1}}", "--search", "random"], "holds nothing to draw"),
        (["--space", f"{TAU_T}={{lo: 2}}", "--search", "random"], "field required"),
        (["--search", "random", "--trials", "0"], "trials is 0"),
    ],
)
def test_a_bad_space_is_named(complaint, storage, options, says):
    assert says in complaint("sweep", "--storage", storage, *options)
    assert not storage.exists()


def test_a_storage_that_cannot_be_written_is_named(complaint, tmp_path):
    (tmp_path / "file").touch()
    says = complaint("train", "--storage", tmp_path / "file" / "below")
    assert "can't be written" in says
    assert "--storage" in says


def test_a_bucket_needs_a_tracking_server_and_must_exist_before_anything_starts(complaint, tmp_path):
    (tmp_path / "file").touch()
    says = complaint("train", "--storage", f"file://{tmp_path}/file/below", "--set", f"storage.cache={tmp_path}/cache")
    assert "can't be written" in says
    says = complaint("train", "--storage", f"file://{tmp_path}/runs", "--set", f"storage.cache={tmp_path}/cache")
    assert "--tracking-uri" in says


def test_a_tracking_server_that_does_not_answer_is_named_and_nothing_is_prepared(complaint, storage):
    with socket.socket() as closed:  # bound but not listening: nobody else can take the port
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert f"tracking.uri {uri}" in complaint("train", "--storage", storage, "--tracking-uri", uri)
    assert left_behind(storage) == []


def test_there_must_be_something_to_resume(complaint, storage):
    assert f"no sweep train lies in {storage}/sweeps to resume" in complaint("train", "--storage", storage, "--resume")
    (storage / "sweeps" / "csm_temp").mkdir(parents=True)
    assert "did you mean csm_temp?" in complaint("train", "--name", "csm_tmp", "--storage", storage, "--resume")
    (storage / "sweeps" / "csm_temp" / "20260101-000000-0001").mkdir()
    assert "sweep.json can't be read" in complaint("train", "--name", "csm_temp", "--storage", storage, "--resume")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--set", "optimiser.lr=1"], "--set"),
        (["--data", "x", "--workers", "2"], "--data and --workers"),
        (["--tracking-uri", "http://other"], "--tracking-uri"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker"),
    ],
)
def test_resuming_takes_no_new_settings(complaint, storage, options, names):
    assert f"leave {names} out" in complaint("train", "--storage", storage, "--resume", *options)


def test_a_new_space_is_not_taken_by_resuming_either(complaint, storage):
    assert "leave --space out" in complaint("sweep", "--storage", storage, "--resume", "--space", f"{TAU_T}=[1]")


def test_a_scripts_sweep_takes_the_same_options(capsys, storage):
    with pytest.raises(SystemExit) as caught:
        sweep_main(Sweep(name="s", space={TAU_T: choice(0.1)}), ["--storage", str(storage), "--set", "nothing=1"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("beamclip: nothing is not a setting")


def test_a_scripts_sweep_can_be_given_another_name(monkeypatch):
    started = []
    monkeypatch.setattr(cli, "start_sweep", lambda sweep, options: started.append(sweep))
    sweep = Sweep(name="s", space={TAU_T: choice(0.1)})
    for arguments in ([], ["--name", "other"]):
        with pytest.raises(SystemExit):
            sweep_main(sweep, arguments)
    assert [one.name for one in started] == ["s", "other"]
    assert started[1].space == sweep.space


def test_a_name_that_can_name_no_folder_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as caught:
        sweep_main(Sweep(name="s", space={TAU_T: choice(0.1)}), ["--name", "a/b"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("beamclip: name")


def test_evaluating_needs_a_model_that_exists_before_images_are_packed(complaint, preset, storage, tmp_path):
    options = ["--preset", preset, "--storage", storage]
    assert "none.safetensors can't be read" in complaint("evaluate", tmp_path / "none.safetensors", *options)
    assert "resnet19 is not a timm model; did you mean resnet18" in complaint("evaluate", "resnet19", "--untrained", *options)
    (tmp_path / "other.safetensors").write_bytes(b"{}")
    assert "other.safetensors can't be read" in complaint("evaluate", tmp_path / "other.safetensors", *options)
    assert left_behind(storage) == []


def test_a_timm_model_is_probed_without_a_teacher(capsys, preset, storage):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "test_resnet", "--untrained", "--preset", str(preset), "--storage", str(storage)])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "linear_probe/test_top1" in said
    assert "zero_shot" not in said
    assert not (storage / "stores" / "anchors").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["anchors.prompt_set=hypernim"], "prompt set hypernim does not exist; did you mean hypernym"),
        (["anchors.prompt_set=plain+glos"], "prompt set glos does not exist; did you mean gloss"),
        (["anchors.custom={mine: {templates: ['a photo.']}}"], "anchors.custom.mine.templates: template 'a photo.' has no {name}"),
        (["anchors.custom={mine: {templates: ['a {nam}.']}}"], "'a {nam}.' has the unknown field {nam}; did you mean name"),
        (["anchors.custom={mine: {names: ['{gloss}']}}"], "phrase '{gloss}' has neither {name} nor {synonym}; add one"),
        (["anchors.custom={plain: {}}"], "plain is the name of a built-in prompt set"),
        (["anchors.senses={gren: n02012849}"], "anchors.senses pins 'gren', which is no class; did you mean green"),
        (["anchors.senses={green: n99999999}"], "class 'green' (pinned by anchors.senses): synset n99999999 is not among"),
        (["anchors.senses={green: ' '}"], "anchors.senses has nothing for 'green'; give a WordNet id such as n02012849"),
        (["anchors.vocabulary=imagenet1k"], "anchors.vocabulary imagenet1k is neither a file nor a vocabulary; did you mean imagenet-1k"),
        (["anchors.count=5"], "anchors.count 5 is more than the 4 class names of the data"),
    ],
)
@pytest.mark.usefixtures("excerpt")
def test_what_is_wrong_with_anchors_is_named_and_leaves_nothing(complaint, preset, storage, settings, says):
    options = [part for setting in settings for part in ("--set", setting)]
    assert says in complaint("anchors", "--preset", preset, "--storage", storage, *options)
    assert left_behind(storage) == []


@pytest.mark.parametrize("key", ["data.class_names", "anchors.vocabulary"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9\nblue\ngreen\nred\n", "is not UTF-8; save it as UTF-8 text, one class name a line"),
        (b"red\nblue\nred\ngreen\n", "has 'red' 2 times"),
        (b"red\nblue\nred\tn02012849\ngreen\n", "has 'red' 2 times; say which is which: a tab and its WordNet id after each name"),
        (b"", "is empty"),
        (b"red\n\nblue\ngreen\n", "line 2"),
        (b"\tn02012849\ngreen\nred\nyellow\n", "line 1 has no class name"),
        (b"blue\tn99999999\ngreen\nred\nyellow\n", "class 'blue' (its own WordNet id): synset n99999999 is not among"),
        (b"blue\tn201284\ngreen\nred\nyellow\n", "line 1 has 'n201284', which is no WordNet id"),
        (None, ""),
    ],
)
@pytest.mark.usefixtures("excerpt")
def test_a_bad_class_list_is_named(complaint, preset, storage, tmp_path, key, content, says):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    said = complaint("anchors", "--preset", preset, "--storage", storage, "--set", f"{key}={path}")
    assert says in said
    assert f"{key} {path}" in said or said.startswith("class 'blue'")
    assert left_behind(storage) == []


@pytest.mark.usefixtures("excerpt")
def test_strict_senses_stop_with_a_sentence(complaint, preset, storage, tmp_path):
    (tmp_path / "names.txt").write_text("crane\nheron\nforklift\nmouse\n")
    options = ["--preset", preset, "--storage", storage, "--set", f"data.class_names={tmp_path / 'names.txt'}", "--strict-senses"]
    said = complaint("anchors", *options)
    assert said.startswith("class crane has 5 senses (") and "pin one with --set 'anchors.senses={crane: n" in said
    assert "1 more class is ambiguous too" in said and said.endswith("see them all with `beamclip anchors --explain`")
    assert "class mouse has 4 senses" in complaint("anchors", *options, "--set", "anchors.senses={crane: n02012849}")
    assert left_behind(storage) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [("1.5", "1.5 is no cosine; give a number from -1 to 1"), ("nan", "is no cosine"), ("x", "x is no cosine; give a number from -1 to 1")],
)
def test_a_cosine_is_between_minus_one_and_one(capsys, value, says):
    with pytest.raises(SystemExit) as caught:
        main(["anchors", "--near", value])
    assert caught.value.code == 2 and says in capsys.readouterr().err


def test_comparing_needs_a_sweep_that_exists(complaint, storage, capsys):
    assert "does not exist; run a sweep first" in complaint("compare", "csm_temp", "--storage", storage)
    assert not storage.exists()
    with pytest.raises(SystemExit):  # makes the database, then finds that there is nothing to train on
        main(["doctor", "--storage", str(storage), "--data", str(storage / "none"), "--set", "teacher.model=none"])
    capsys.readouterr()
    assert "MLflow experiment csm_temp does not exist" in complaint("compare", "csm_temp", "--storage", storage)


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    """Nothing here may get as far as starting one."""

    def refuse():
        raise AssertionError("Ray was started")

    monkeypatch.setattr("beamclip.distributed.cluster.connect", refuse)
    monkeypatch.setattr("beamclip.doctor._ray", refuse)
    from beamclip.doctor import CHECKS

    monkeypatch.setitem(CHECKS, "ray", lambda experiment: "left out")


# What only the data or the teacher can tell is found by the preparation, in a process of the cluster, and comes back as the same
# sentence (tests/distributed/test_sweep.py sees one through Ray).


@pytest.fixture
def refused(preset, tmp_path):
    """`refused(data__path=…)`: why the preparation of such an experiment stops; asserts that it left nothing."""

    def call(**values):
        experiment = tiny.experiment(preset, tmp_path / "runs", **values)
        with pytest.raises(UserError) as caught:
            prepare(experiment, Workshop(tmp_path / "stores"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return call


@pytest.fixture
def tree(images, tmp_path):
    """A copy of the images to break."""
    return shutil.copytree(images, tmp_path / "tree")


def test_a_folder_that_is_missing_or_empty_is_named(refused, tmp_path):
    assert f"data.path {tmp_path}/none does not exist" in refused(data__path=f"{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty" in refused(data__path=f"{tmp_path}/empty")
    assert "holds no parquet, tar, CIFAR or train/" in refused(data__path=f"{tmp_path}/empty", data__source="auto")
    assert left_behind(tmp_path / "stores") == []


def test_one_class_and_a_lacking_test_split_are_named(refused, tree, tmp_path):
    shutil.rmtree(tree / "test")
    assert "has no test split" in refused(data__path=str(tree))
    tiny.make_images(tmp_path / "one", classes=1)
    assert "has one class only (blue)" in refused(data__path=f"{tmp_path}/one")


def test_broken_images_above_the_threshold_are_counted_and_the_first_is_named(refused, tree, tmp_path):
    for number in range(5):
        (tree / "train" / "red" / f"{number}.jpg").write_bytes(b"no image")
    says = refused(data__path=str(tree))
    assert "train/red/0.jpg can't be read" in says
    assert "5 of 200 images" in says
    assert not list((tmp_path / "stores").rglob("manifest.json"))


def test_below_the_threshold_a_stray_file_is_left_out_and_listed(preset, tree, tmp_path):
    (tree / "train" / "red" / "notes.txt").write_text("not an image")
    experiment = tiny.experiment(preset, tmp_path / "runs", data__path=str(tree))
    assets = prepare(experiment, Workshop(tmp_path / "stores"))
    assert "notes.txt" in (Path(assets.packed) / "bad.csv").read_text()
    assert assets.facts["train_images"] == 4 * 36


def test_parquet_without_its_columns_is_named(refused, tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / f"{split}-0.parquet")
    assert "has no column 'image', only picture, label" in refused(data__path=str(tmp_path), data__source="parquet")


def test_fewer_class_names_than_labels_are_counted(refused, images, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red\nblue\n")
    assert f"data.class_names {names} has 2 class names for 4 labels" in refused(data__class_names=str(names))


def test_more_anchors_than_classes_and_a_batch_larger_than_the_data_are_named(refused):
    assert "anchors.count 5 is more than the 4 class names" in refused(anchors__count=5)
    assert "optimiser.batch_size 4096 is more than the 144 training images" in refused(optimiser__batch_size=4096)


def test_an_unknown_backbone_is_found_before_anything_is_made(refused, tmp_path):
    assert "student.backbone resnet1888 is not a timm model; did you mean" in refused(student__backbone="resnet1888")
    assert not (tmp_path / "stores").exists()


def test_an_unknown_teacher_is_named_with_its_neighbours(refused, colour_teacher, tmp_path):
    assert "ViT-B-33 is no open_clip model; did you mean ViT-B-32" in refused(teacher__model="ViT-B-33")
    assert "teacher.pretrained is missing for ViT-B-32" in refused(teacher__model="ViT-B-32")
    says = refused(teacher__model="ViT-B-32", teacher__pretrained="opnai")
    assert "teacher.pretrained opnai is no tag of ViT-B-32; did you mean openai" in says
    near = str(colour_teacher).replace("tiny", "tinny")
    assert "which does not exist; did you mean tiny?" in refused(teacher__model=f"local-dir:{near}")
    assert not (tmp_path / "stores" / "embeddings").exists()


def test_doctor_prints_a_line_for_every_check(preset, storage, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--preset", str(preset), "--storage", str(storage)])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 0
    assert [line.split()[:2] for line in lines[:7]] == [
        ["✓", name] for name in ("storage", "tracking", "data", "teacher", "student", "devices", "ray")
    ]
    assert lines[-1] == "ready"
    assert "4 classes, 160 train, 40 test images" in lines[2]


def test_doctor_goes_on_after_a_bad_line_and_exits_with_1(preset, storage, tmp_path, capsys):
    bad = ["--data", str(tmp_path / "none"), "--set", "student.backbone=resnet1888", "--gpus-per-worker", "1"]
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--preset", str(preset), "--storage", str(storage), *bad])
    said = capsys.readouterr()
    assert caught.value.code == 1
    marks = {line.split()[1]: line[0] for line in said.out.splitlines()[:7]}
    good = dict.fromkeys(("storage", "tracking", "teacher", "ray"), "✓")
    assert marks == good | {"data": "✗", "student": "✗", "devices": "✓" if torch.cuda.is_available() else "✗"}


def test_the_command_itself_answers():
    command = Path(sys.executable).with_name("beamclip")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"beamclip {__version__}\n"
    result = subprocess.run([command, "train", "--preset", "nothing"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("beamclip: preset nothing does not exist; known are ")
