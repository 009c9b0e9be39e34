import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import tiny
from PIL import Image
from rich.console import Console

from beamclip.cli.evaluate import (
    EvaluationExtras,
    evaluate_model,
    own_dataset,
    probe_table,
    table_notes,
    transfer_dataset,
)
from beamclip.cli.main import main
from beamclip.config import FEW_SHOT, ProbeConfig, UserError, load_experiment, with_values
from beamclip.evaluation import LabeledFeatures, evaluate
from beamclip.preparation.context import PreparationContext
from beamclip.students import build_student, save_student


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images of four colors, other images of three, and a teacher that knows the four."""
    folder = tmp_path_factory.mktemp("evaluating")
    images = tiny.make_images(folder / "images", train=20, test=5)
    teacher = tiny.make_teacher(folder / "teacher")
    return (
        images,
        tiny.make_images(folder / "others", train=12, test=4, classes=3),
        tiny.write_preset(folder / "p.yaml", images, teacher),
    )


@pytest.fixture
def experiment(folders, tmp_path):
    return tiny.experiment(folders[2], tmp_path)


@pytest.fixture
def student(experiment, tmp_path):
    save_student(build_student(experiment.student, 16, 0), tmp_path / "student.safetensors")
    return str(tmp_path / "student.safetensors")


@pytest.mark.slow
def test_a_frozen_backbone_is_probed_on_other_data_sets(student, folders, experiment, capsys):
    metrics = evaluate_model(
        student,
        False,
        experiment,
        EvaluationExtras({"three": str(folders[1]), "same": str(folders[0])}),
    )
    printed = capsys.readouterr().out
    assert (
        "images, 20 test images" in printed
        and "three, 12 test images" in printed
        and "same, 20 test images" in printed
    )
    assert (
        metrics["transfer/three/linear_probe/test_top1"] > 60
    )  # colors can be told apart without training
    shared = ("linear_probe/val_top1", "linear_probe/test_top1", "knn/test_top1")
    assert [metrics[f"transfer/same/{key}"] for key in shared] == pytest.approx(
        [metrics[key] for key in shared]
    )
    assert not any(key.startswith("transfer/") and "zero_shot" in key for key in metrics)


@pytest.mark.slow
def test_few_shot_probes_run_and_omitted_ones_are_reported(student, experiment, capsys):
    metrics = evaluate_model(student, False, experiment, EvaluationExtras({}, few_shot=True))
    assert {f"few_shot/{shots}_top1" for shots in FEW_SHOT} <= metrics.keys()
    few = experiment.model_copy(
        update={"probe": experiment.probe.model_copy(update={"few_shot": (2, 500)})}
    )
    metrics = evaluate_model(student, False, few, EvaluationExtras({}, few_shot=True))
    assert {key for key in metrics if key.startswith("few_shot/")} == {
        f"few_shot/2_top1{end}" for end in ("", "_low", "_high")
    }
    assert (
        "images, 500 images per class: left out, a class has only 18 train images"
        in capsys.readouterr().out
    )


def test_omitted_probes_on_other_data_are_reported_with_the_data_s_name(
    student, folders, experiment, capsys
):
    metrics = evaluate_model(
        student,
        False,
        with_values(experiment, {"probe.few_shot": [16]}),
        EvaluationExtras({"three": str(folders[1])}),
    )
    assert "few_shot/16_top1" in metrics and "transfer/three/few_shot/16_top1" not in metrics
    assert (
        "three, 16 images per class: left out, a class has only 11 train images"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_class_list_names_the_anchors(student, experiment, tmp_path):
    (tmp_path / "same.txt").write_text("blue\ngreen\nred\nyellow\n")
    (tmp_path / "others.txt").write_text("azure sky\ngrass\nblood\nbanana\n")
    plain = evaluate_model(student, False, experiment)
    same = evaluate_model(
        student, False, experiment, EvaluationExtras({}, class_list=str(tmp_path / "same.txt"))
    )
    others = evaluate_model(
        student, False, experiment, EvaluationExtras({}, class_list=str(tmp_path / "others.txt"))
    )
    assert same == plain
    assert others["zero_shot/test_ece"] != plain["zero_shot/test_ece"]
    assert others["linear_probe/test_top1"] == plain["linear_probe/test_top1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            None,
            (
                r"--class-list .*names.txt can't be read \(No such file or directory\); "
                "give a text file"
            ),
        ),
        (b"caf\xe9\n", "--class-list .*names.txt is not UTF-8"),
        (b"blue\ngreen\nred\n", "--class-list .*names.txt has 3 class names for 4 labels"),
        (b"blue\n\nred\n", "--class-list .*names.txt is empty in line 2"),
    ],
)
def test_errors_in_a_class_list_name_the_option_that_was_typed(
    student, experiment, tmp_path, content, says
):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        evaluate_model(
            student, False, experiment, EvaluationExtras({}, class_list=str(tmp_path / "names.txt"))
        )
    assert "data.class_names" not in str(caught.value)


@pytest.mark.slow
def test_pins_of_names_that_a_class_list_lacks_are_ignored(student, experiment, tmp_path):
    (tmp_path / "others.txt").write_text("azure sky\ngrass\nred\nbanana\n")
    pinned = with_values(
        experiment, {"anchors.senses": {"blue": "a color", "Red": "a color like blood"}}
    )
    extras = EvaluationExtras({}, class_list=str(tmp_path / "others.txt"))
    kept = with_values(experiment, {"anchors.senses": {"red": "a color like blood"}})
    assert evaluate_model(student, False, pinned, extras) == evaluate_model(
        student, False, kept, extras
    )
    listed = with_values(
        pinned,
        {"anchors.vocabulary": str(tmp_path / "own.txt"), "anchors.strict_senses": False},
    )
    (tmp_path / "own.txt").write_text("blue\nred\n")
    assert "zero_shot/test_top1" in evaluate_model(student, False, listed, extras)


@pytest.mark.slow
def test_a_class_list_needs_a_student_as_wide_as_the_teacher(experiment, tmp_path):
    save_student(build_student(experiment.student, 8, 0), tmp_path / "narrow.safetensors")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    narrow = str(tmp_path / "narrow.safetensors")
    with pytest.raises(
        UserError,
        match=r"--class-list is for zero-shot, but embeddings of .* have 16 numbers "
        "and those of the student 8; set teacher.model",
    ):
        evaluate_model(
            narrow, False, experiment, EvaluationExtras({}, class_list=str(tmp_path / "names.txt"))
        )
    assert not (tmp_path / "stores" / "packed").exists()
    assert "zero_shot/test_top1" not in evaluate_model(narrow, False, experiment)


def test_a_student_whose_projector_was_not_trained_has_no_zero_shot(experiment, tmp_path):
    student = build_student(experiment.student, 16, 0)
    student.projector.requires_grad_(
        False
    )  # as training leaves it if the objective does not use embeddings
    save_student(student, tmp_path / "simclr.safetensors")
    path = str(tmp_path / "simclr.safetensors")
    metrics = evaluate_model(path, False, experiment)
    assert "linear_probe/test_top1" in metrics and not any(
        key.startswith("zero_shot") for key in metrics
    )
    with pytest.raises(
        UserError,
        match=r"--class-list is for zero-shot, but .*simclr.safetensors was not trained "
        "to embed images into its teacher's space",
    ):
        evaluate_model(path, False, experiment, EvaluationExtras({}, class_list="names.txt"))


@pytest.mark.parametrize("says", [None, True])
def test_the_file_decides_about_zero_shot_and_without_an_entry_the_objective_does(
    student, experiment, monkeypatch, says
):
    monkeypatch.setattr("beamclip.cli.evaluate.projector_was_trained", lambda path: says)
    simclr = with_values(experiment, {"objective.name": "simclr"})
    assert ("zero_shot/test_top1" in evaluate_model(student, False, simclr)) is bool(says)


@pytest.mark.slow
def test_for_an_older_student_the_objective_of_its_run_decides_not_that_of_the_preset(
    student, experiment, monkeypatch
):
    """By the default preset's objective, zero-shot would be scored for a student of SimCLR."""
    asked = []
    monkeypatch.setattr("beamclip.cli.evaluate.projector_was_trained", lambda path: None)
    monkeypatch.setattr(
        "beamclip.cli.evaluate.fetch_student_of_run", lambda model, experiment: student
    )
    trained = with_values(experiment, {"objective.name": "simclr"})
    monkeypatch.setattr(
        "beamclip.cli.evaluate.experiment_of_run",
        lambda model, values: asked.append((model, values["storage.path"])) or trained,
    )
    assert "zero_shot/test_top1" not in evaluate_model("run:abc", False, experiment)
    assert asked == [("run:abc", experiment.storage.path)]
    monkeypatch.setattr("beamclip.cli.evaluate.experiment_of_run", lambda model, values: None)
    assert "zero_shot/test_top1" in evaluate_model("run:abc", False, experiment)


def test_a_class_list_is_refused_for_a_timm_model(experiment):
    with pytest.raises(
        UserError, match="--class-list is for zero-shot, which a timm model can't do"
    ):
        evaluate_model(
            "test_resnet", True, experiment, EvaluationExtras({}, class_list="names.txt")
        )


def test_a_missing_data_set_is_an_error_before_anything_is_packed(student, experiment, tmp_path):
    with pytest.raises(UserError, match=r"--transfer pets: data.path .*nowhere does not exist"):
        evaluate_model(
            student, False, experiment, EvaluationExtras({"pets": str(tmp_path / "nowhere")})
        )
    assert not (tmp_path / "stores" / "packed").exists()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["pets"], "--transfer pets is not NAME=DIR"),
        (["a=b", "a=c"], "--transfer names a twice; give each data set"),
    ],
)
def test_invalid_data_set_options_are_an_error(items, says, capsys):
    options = [part for item in items for part in ("--transfer", item)]
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "test_resnet", *options])
    assert caught.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("model", ["run:abc", "student.safetensors"])
def test_a_trained_student_is_not_called_untrained(experiment, model):
    with pytest.raises(
        UserError, match=f"--untrained is for timm names, and {model} is a trained student"
    ):
        evaluate_model(model, True, experiment)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "folder/weights"])
def test_a_file_that_is_not_a_student_is_not_taken_for_a_timm_name(experiment, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("<html></html>")
    with pytest.raises(
        UserError,
        match=r"can't be read as a student's safetensors file \(it is a web page or XML\); ",
    ):
        evaluate_model(str(path), False, experiment)


def test_a_missing_file_is_not_taken_for_a_timm_name(experiment):
    with pytest.raises(UserError, match=r"nothing.pth can't be read .*\(it does not exist\)"):
        evaluate_model("nothing.pth", False, experiment)


def test_an_untrained_model_is_called_so(experiment, capsys):
    evaluate_model("test_resnet", True, experiment)
    assert "test_resnet, untrained" in capsys.readouterr().out


def test_more_neighbors_than_images_are_refused_before_any_feature_is_made(experiment, monkeypatch):
    monkeypatch.setattr(
        "beamclip.cli.evaluate.evaluation_features", lambda *_: pytest.fail("features were made")
    )
    with pytest.raises(UserError, match="knn_k"):
        evaluate_model("test_resnet", True, with_values(experiment, {"probe.knn_k": 5000}))


def test_more_neighbors_than_requested_images_are_refused_before_anything_is_packed(
    experiment, tmp_path
):
    with pytest.raises(UserError, match="knn_k"):
        evaluate_model(
            "test_resnet", True, with_values(experiment, {"data.train_images": 8, "probe.knn_k": 9})
        )
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"data.train_images": 5000},
            "data.train_images is 5000 but the data has only 80 train images",
        ),
        ({"probe.knn_k": 81}, "knn_k"),
    ],
)
def test_too_little_data_is_an_error_before_anything_is_packed(experiment, tmp_path, values, says):
    with pytest.raises(UserError, match=says):
        evaluate_model("test_resnet", True, with_values(experiment, values))
    assert not list(tmp_path.rglob("manifest.json"))


def test_other_data_that_can_t_be_split_is_an_error_before_any_feature_is_made(
    experiment, tmp_path, monkeypatch
):
    """Otherwise the evaluation of the model, which may have taken hours, would be lost, too."""
    monkeypatch.setattr(
        "beamclip.cli.evaluate.evaluation_features", lambda *_: pytest.fail("features were made")
    )
    small = tiny.make_images(tmp_path / "small", train=1, test=2)
    few = with_values(experiment, {"probe.knn_k": 2})
    with pytest.raises(UserError, match="--transfer small: no class has two readable training"):
        evaluate_model("test_resnet", True, few, EvaluationExtras({"small": str(small)}))


def test_evaluating_on_two_data_sets_of_one_name_is_refused(experiment, folders):
    with pytest.raises(UserError, match="--transfer images has the name of the model's own data"):
        evaluate_model(
            "test_resnet", True, experiment, EvaluationExtras({"images": str(folders[1])})
        )


def test_a_probe_that_diverges_is_an_error(experiment):
    values = {"probe.grid.lr": [1000], "probe.grid.weight_decay": [10]}
    with pytest.raises(UserError, match=r"the linear probe diverged \(.*\); lower probe.grid.lr"):
        evaluate_model("test_resnet", True, with_values(experiment, values))


# The data sets: their names, and errors that are found before any image is read.


def name_of(path):
    return own_dataset(
        load_experiment("imagenette", {"data.source": "auto", "data.path": path})
    ).name


def test_a_data_set_has_the_name_of_its_folder_for_any_form_of_the_path(tmp_path, monkeypatch):
    (tmp_path / "pets" / "more").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "pets")
    written = (
        ".",
        "..",
        "more/..",
        "../pets",
        str(tmp_path / "pets"),
        "~/pets/",
        "s3://bucket/pets",
        "/",
    )
    assert [name_of(path) for path in written] == [
        "pets",
        tmp_path.name,
        "pets",
        "pets",
        "pets",
        "pets",
        "pets",
        "/",
    ]


def test_a_link_keeps_the_name_it_was_given(tmp_path):
    (tmp_path / "0f3a").mkdir()
    (tmp_path / "pets").symlink_to(tmp_path / "0f3a")
    assert name_of(str(tmp_path / "pets")) == "pets"


@pytest.fixture
def demo_experiment(tmp_path):
    return load_experiment("demo", {"storage.path": str(tmp_path)})


def jpeg(number):
    content = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(content, "jpeg")
    return content.getvalue()


def make_tars(folder):
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
            for number in range(4):
                for name, content in (
                    (f"{number}.jpg", jpeg(number)),
                    (f"{number}.cls", str(number % 2).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def make_parquet(folder):
    folder.mkdir()
    for split in ("train", "test"):
        rows = {
            "image": [{"bytes": jpeg(number), "path": None} for number in range(4)],
            "label": [0, 1, 0, 1],
        }
        pq.write_table(pa.table(rows), folder / f"{split}-0.parquet")
    return folder


@pytest.mark.parametrize("make", [make_tars, make_parquet])
def test_an_error_about_class_names_of_other_data_names_that_data(demo_experiment, tmp_path, make):
    pets = transfer_dataset("pets", str(make(tmp_path / "there")), demo_experiment, 32, "demo")
    with pytest.raises(
        UserError,
        match=r"--transfer pets: .*there has no class names; "
        "write them into classnames.txt next to tar",
    ) as caught:
        pets.check(PreparationContext(tmp_path))
    assert "data.class_names" not in str(caught.value)


def test_tar_shards_with_a_list_of_names_next_to_them_can_be_used(demo_experiment, tmp_path):
    (make_tars(tmp_path / "there") / "classnames.txt").write_text("cat\ndog\n")
    pets = transfer_dataset("pets", str(tmp_path / "there"), demo_experiment, 32, "demo")
    assert pets.is_transfer and PreparationContext(tmp_path).source(pets.experiment.data).names == (
        "cat",
        "dog",
    )


def test_an_error_about_a_missing_folder_names_the_option_that_was_typed(demo_experiment, tmp_path):
    with pytest.raises(
        UserError,
        match=r"--transfer pets: data.path .*none does not exist; "
        "give --transfer pets=DIR with the folder",
    ):
        transfer_dataset("pets", str(tmp_path / "none"), demo_experiment, 32, "demo").check(
            PreparationContext(tmp_path)
        )


def test_other_data_with_the_name_of_the_main_data_is_refused(demo_experiment):
    with pytest.raises(UserError, match="--transfer demo has the name of the model's own data"):
        transfer_dataset("demo", "x", demo_experiment, 32, "demo")


# The table.


def labeled_features(count, classes, seed, embeddings=False):
    """Noisy features by which the classes can be separated."""
    labels = torch.arange(count) % classes
    features = (
        torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
        + 2 * torch.eye(16)[labels]
    )
    return LabeledFeatures(features, features if embeddings else None, labels)


def evaluated(classes, few_shot=(), anchors=None):
    parts = (
        labeled_features(count, classes, seed, anchors is not None)
        for seed, count in enumerate((120, 60, 90))
    )
    return evaluate(*parts, anchors, ProbeConfig(few_shot=few_shot, knn_k=(5, 20), bootstrap=50))


def table_lines(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]


def test_each_probe_has_a_row_with_its_numbers():
    own = evaluated(10, anchors=torch.eye(16)[:10])
    m = own.metrics
    about, probe, neighbours, zero_shot = table_lines(probe_table("model", {"own": own}))
    between = f"{m['linear_probe/test_top1_low']:.2f}–{m['linear_probe/test_top1_high']:.2f}"
    numbers = [
        f"{m[f'linear_probe/{key}']:.2f}"
        for key in ("val_top1", "test_top1", "test_top5", "test_ece")
    ]
    assert about == ["own, 90 test images", "", "", "", "", ""]
    assert probe == ["linear probe", *numbers[:2], between, *numbers[2:]]
    assert neighbours == [
        f"k-NN, k = {m['knn/k']:.0f}",
        f"{m['knn/val_top1']:.2f}",
        f"{m['knn/test_top1']:.2f}",
        "",
        "",
        "",
    ]
    assert zero_shot[0] == "zero-shot" and zero_shot[2] == f"{m['zero_shot/test_top1']:.2f}"


def test_few_shot_rows_come_last_and_omitted_probes_are_notes():
    own = evaluated(3, few_shot=(1, 2, 500))
    rows = table_lines(probe_table("model", {"own": own}))
    assert [row[0] for row in rows[1:]] == [
        "linear probe",
        rows[2][0],
        "1-shot probe",
        "2-shot probe",
    ]
    assert rows[3][2] == f"{own.metrics['few_shot/1_top1']:.2f}" and rows[3][3]
    assert rows[1][4] == ""  # of 3 classes, the right one is always among 5
    assert "N-shot probes over draws" in probe_table("model", {"own": own}).caption
    assert probe_table("model", {"own": evaluated(3)}).caption is None
    note = "500 images per class: left out, a class has only 40 train images"
    assert table_notes({"own": own, "pets": evaluated(3, few_shot=(2, 500))}) == [
        f"own, {note}",
        f"pets, {note}",
    ]


def test_other_data_comes_under_its_name():
    own, other = evaluated(10), evaluated(3)
    rows = table_lines(probe_table("model", {"own": own, "pets": other}))
    assert [row[0] for row in rows if not row[1]] == ["own, 90 test images", "pets, 90 test images"]
    assert rows[4][2] == f"{other.metrics['linear_probe/test_top1']:.2f}"


def test_brackets_in_a_name_are_not_markup():
    table = probe_table("/data/[/old]/student.safetensors", {"[red]own[/red]": evaluated(3)})
    assert "[red]own[/red], 90 test images" in str(table_lines(table))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    assert "/data/[/old]/student.safetensors" in console.export_text()
