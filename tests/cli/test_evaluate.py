import pytest
from helpers import tiny

from beamclip.cli.evaluate import Extras, evaluate_model
from beamclip.cli.main import main
from beamclip.config import FEW_SHOT, UserError, with_values
from beamclip.students import build_student, save_student


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images of four colours, others of three, and a teacher that knows the four."""
    folder = tmp_path_factory.mktemp("evaluating")
    images, teacher = (
        tiny.make_images(folder / "images", train=20, test=5),
        tiny.make_teacher(folder / "teacher"),
    )
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


def test_a_frozen_backbone_is_probed_on_other_data_sets(student, folders, experiment, capsys):
    metrics = evaluate_model(
        student, False, experiment, Extras({"three": str(folders[1]), "same": str(folders[0])})
    )
    said = capsys.readouterr().out
    assert (
        "images, 20 test images" in said
        and "three, 12 test images" in said
        and "same, 20 test images" in said
    )
    assert (
        metrics["transfer/three/linear_probe/test_top1"] > 60
    )  # a colour is seen without training
    shared = ("linear_probe/val_top1", "linear_probe/test_top1", "knn/test_top1")
    assert [metrics[f"transfer/same/{key}"] for key in shared] == pytest.approx(
        [metrics[key] for key in shared]
    )
    assert not any(key.startswith("transfer/") and "zero_shot" in key for key in metrics)


def test_few_images_a_class_are_tried_and_what_is_left_out_is_said(student, experiment, capsys):
    metrics = evaluate_model(student, False, experiment, Extras({}, few_shot=True))
    assert {f"few_shot/{shots}_top1" for shots in FEW_SHOT} <= metrics.keys()
    few = experiment.model_copy(
        update={"probe": experiment.probe.model_copy(update={"few_shot": (2, 500)})}
    )
    metrics = evaluate_model(student, False, few, Extras({}, few_shot=True))
    assert {key for key in metrics if key.startswith("few_shot/")} == {
        f"few_shot/2_top1{end}" for end in ("", "_low", "_high")
    }
    assert (
        "images, 500 images a class: left out, a class has only 18 train images"
        in capsys.readouterr().out
    )


def test_what_is_left_out_on_other_data_is_said_of_them_by_name(
    student, folders, experiment, capsys
):
    metrics = evaluate_model(
        student,
        False,
        with_values(experiment, {"probe.few_shot": [16]}),
        Extras({"three": str(folders[1])}),
    )
    assert "few_shot/16_top1" in metrics and "transfer/three/few_shot/16_top1" not in metrics
    assert (
        "three, 16 images a class: left out, a class has only 11 train images"
        in capsys.readouterr().out
    )


def test_a_class_list_names_the_anchors(student, experiment, tmp_path):
    (tmp_path / "same.txt").write_text("blue\ngreen\nred\nyellow\n")
    (tmp_path / "others.txt").write_text("azure sky\ngrass\nblood\nbanana\n")
    plain = evaluate_model(student, False, experiment)
    same = evaluate_model(
        student, False, experiment, Extras({}, class_list=str(tmp_path / "same.txt"))
    )
    others = evaluate_model(
        student, False, experiment, Extras({}, class_list=str(tmp_path / "others.txt"))
    )
    assert same == plain
    assert others["zero_shot/test_ece"] != plain["zero_shot/test_ece"]
    assert others["linear_probe/test_top1"] == plain["linear_probe/test_top1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            None,
            r"--class-list .*names.txt can't be read \(No such file or directory\); give a text file",
        ),
        (b"caf\xe9\n", "--class-list .*names.txt is not UTF-8"),
        (b"blue\ngreen\nred\n", "--class-list .*names.txt has 3 class names for 4 labels"),
        (b"blue\n\nred\n", "--class-list .*names.txt is empty in line 2"),
    ],
)
def test_mistakes_in_a_class_list_are_said_of_the_option_that_was_typed(
    student, experiment, tmp_path, content, says
):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        evaluate_model(
            student, False, experiment, Extras({}, class_list=str(tmp_path / "names.txt"))
        )
    assert "data.class_names" not in str(caught.value)


def test_a_class_list_goes_without_the_senses_of_names_that_it_lacks(student, experiment, tmp_path):
    (tmp_path / "others.txt").write_text("azure sky\ngrass\nred\nbanana\n")
    pinned = with_values(
        experiment, {"anchors.senses": {"blue": "a colour", "Red": "a colour like blood"}}
    )
    extras = Extras({}, class_list=str(tmp_path / "others.txt"))
    kept = with_values(experiment, {"anchors.senses": {"red": "a colour like blood"}})
    assert evaluate_model(student, False, pinned, extras) == evaluate_model(
        student, False, kept, extras
    )
    listed = with_values(
        pinned,
        {"anchors.vocabulary": str(tmp_path / "own.txt"), "anchors.strict_senses": False},
    )
    (tmp_path / "own.txt").write_text("blue\nred\n")
    assert "zero_shot/test_top1" in evaluate_model(student, False, listed, extras)


def test_a_class_list_for_a_student_of_another_width_than_the_teacher_s_is_a_sentence(
    experiment, tmp_path
):
    save_student(build_student(experiment.student, 8, 0), tmp_path / "narrow.safetensors")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    narrow = str(tmp_path / "narrow.safetensors")
    with pytest.raises(
        UserError,
        match=r"--class-list is for zero-shot, but .* embeds in 16 numbers and the student in 8; set teacher.model",
    ):
        evaluate_model(
            narrow, False, experiment, Extras({}, class_list=str(tmp_path / "names.txt"))
        )
    assert not (tmp_path / "stores" / "packed").exists()
    assert "zero_shot/test_top1" not in evaluate_model(narrow, False, experiment)


def test_a_student_whose_projector_never_saw_text_has_no_zero_shot_whatever_it_is_judged_by(
    experiment, tmp_path
):
    student = build_student(experiment.student, 16, 0)
    student.projector.requires_grad_(
        False
    )  # as training leaves it where the objective does not look at embeddings
    save_student(student, tmp_path / "simclr.safetensors")
    path = str(tmp_path / "simclr.safetensors")
    metrics = evaluate_model(path, False, experiment)
    assert "linear_probe/test_top1" in metrics and not any(
        key.startswith("zero_shot") for key in metrics
    )
    with pytest.raises(
        UserError,
        match=r"--class-list is for zero-shot, but .*simclr.safetensors was never trained to embed where",
    ):
        evaluate_model(path, False, experiment, Extras({}, class_list="names.txt"))


@pytest.mark.parametrize("says", [None, True])
def test_a_file_that_says_nothing_of_its_projector_goes_by_the_objective_and_one_that_does_by_what_it_says(
    student, experiment, monkeypatch, says
):
    monkeypatch.setattr("beamclip.cli.evaluate.was_projected", lambda path: says)
    simclr = with_values(experiment, {"objective.name": "simclr"})
    assert ("zero_shot/test_top1" in evaluate_model(student, False, simclr)) is bool(says)


def test_an_earlier_version_s_student_of_a_run_goes_by_its_run_s_objective_whatever_the_preset(
    student, experiment, monkeypatch
):
    """The default preset's objective would have zero-shot scored for a student of SimCLR."""
    asked = []
    monkeypatch.setattr("beamclip.cli.evaluate.was_projected", lambda path: None)
    monkeypatch.setattr("beamclip.cli.evaluate.fetched", lambda model, experiment: student)
    trained = with_values(experiment, {"objective.name": "simclr"})
    monkeypatch.setattr(
        "beamclip.cli.evaluate.as_trained",
        lambda model, values: asked.append((model, values["storage.path"])) or trained,
    )
    assert "zero_shot/test_top1" not in evaluate_model("run:abc", False, experiment)
    assert asked == [("run:abc", experiment.storage.path)]
    monkeypatch.setattr("beamclip.cli.evaluate.as_trained", lambda model, values: None)
    assert "zero_shot/test_top1" in evaluate_model("run:abc", False, experiment)


def test_a_timm_model_has_no_use_for_a_class_list(experiment):
    with pytest.raises(
        UserError, match="--class-list is for zero-shot, which a timm model can't do"
    ):
        evaluate_model("test_resnet", True, experiment, Extras({}, class_list="names.txt"))


def test_a_data_set_that_is_not_there_is_said_before_anything_is_packed(
    student, experiment, tmp_path
):
    with pytest.raises(UserError, match=r"--transfer pets: data.path .*nowhere does not exist"):
        evaluate_model(student, False, experiment, Extras({"pets": str(tmp_path / "nowhere")}))
    assert not (tmp_path / "stores" / "packed").exists()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["pets"], "--transfer pets is not NAME=DIR"),
        (["a=b", "a=c"], "--transfer names a twice; give each data set"),
    ],
)
def test_options_that_are_no_data_set_are_a_sentence(items, says, capsys):
    options = [part for item in items for part in ("--transfer", item)]
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "test_resnet", *options])
    assert caught.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("model", ["run:abc", "student.safetensors"])
def test_a_trained_student_is_not_taken_for_an_untrained_one(experiment, model):
    with pytest.raises(
        UserError, match=f"--untrained is for timm names, and {model} is a trained student"
    ):
        evaluate_model(model, True, experiment)


def test_an_untrained_model_is_called_so(experiment, capsys):
    evaluate_model("test_resnet", True, experiment)
    assert "test_resnet, untrained" in capsys.readouterr().out


def test_more_neighbours_than_images_are_refused_before_any_feature_is_made(
    experiment, monkeypatch
):
    monkeypatch.setattr(
        "beamclip.cli.evaluate.evaluation_features", lambda *_: pytest.fail("features were made")
    )
    with pytest.raises(UserError, match="knn_k"):
        evaluate_model("test_resnet", True, with_values(experiment, {"probe.knn_k": 5000}))


def test_more_neighbours_than_images_asked_for_are_refused_before_anything_is_packed(
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
def test_too_little_data_is_said_before_anything_is_packed(experiment, tmp_path, values, says):
    with pytest.raises(UserError, match=says):
        evaluate_model("test_resnet", True, with_values(experiment, values))
    assert not list(tmp_path.rglob("manifest.json"))


def test_other_data_that_can_t_be_split_is_said_before_any_feature_is_made(
    experiment, tmp_path, monkeypatch
):
    """Or the model's own evaluation, which may have taken hours, would be lost with it."""
    monkeypatch.setattr(
        "beamclip.cli.evaluate.evaluation_features", lambda *_: pytest.fail("features were made")
    )
    small = tiny.make_images(tmp_path / "small", train=2, test=2)
    few = with_values(experiment, {"probe.knn_k": 2})
    with pytest.raises(UserError, match="--transfer small: class blue has 2 readable"):
        evaluate_model("test_resnet", True, few, Extras({"small": str(small)}))


def test_other_data_by_the_own_data_s_name_is_refused_since_the_table_could_hold_one_only(
    experiment, folders
):
    with pytest.raises(UserError, match="--transfer images is what the model's own data is called"):
        evaluate_model("test_resnet", True, experiment, Extras({"images": str(folders[1])}))


def test_a_probe_that_runs_away_is_a_sentence(experiment):
    values = {"probe.grid.lr": [1000], "probe.grid.weight_decay": [10]}
    with pytest.raises(
        UserError, match=r"the linear probe's weights ran away \(.*\); lower probe.grid.lr"
    ):
        evaluate_model("test_resnet", True, with_values(experiment, values))
