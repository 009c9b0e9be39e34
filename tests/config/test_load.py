import pytest

from beamclip.config import (
    Experiment,
    UserError,
    flatten,
    load_experiment,
    parse_assignments,
    preset_names,
    validate,
    with_values,
)
from beamclip.config.load import read_preset


def test_every_preset_is_a_valid_experiment():
    assert preset_names() == ["cifar10", "demo", "imagenet", "imagenette"]
    for name in preset_names():
        assert load_experiment(name).data.image_size > 0


def test_values_override_the_preset_and_keep_their_types():
    values = parse_assignments(
        [
            "optimizer.lr=1e-3",
            "anchors.count=5",
            "probe.inverse_l2=[0.1, 1e1]",
            "data.train_images=null",
        ]
    )
    experiment = load_experiment("demo", values)
    assert experiment.optimizer.lr == 0.001
    assert experiment.anchors.count == 5
    assert experiment.probe.inverse_l2 == (0.1, 10.0)
    assert experiment.data.train_images is None
    assert experiment.optimizer.name == "adamw"  # from the preset


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E+3", 1500.0),
        ("-2e3", -2000.0),
        ("[1e-3, 2]", [0.001, 2]),
        ("{low: 1e-4, high: 1e-1, log: true}", {"low": 1e-4, "high": 0.1, "log": True}),
        ("'1e3'", "1e3"),
        ("2026-11-26", "2026-11-26"),
        ("{2026-11-26: x}", {"2026-11-26": "x"}),
        ("n02012849", "n02012849"),
        ("e3", "e3"),
        ("null", None),
    ],
)
def test_numbers_and_names_are_parsed_as_people_expect(text, value):
    assert parse_assignments([f"key={text}"]) == {"key": value}


def test_numbers_in_a_preset_are_read_as_on_the_command_line(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "data: {path: 2026-11-26, image_size: 32}\nstudent: {image_size: 32}\noptimizer: {lr: "
        "1e-3}\n"
    )
    experiment = load_experiment(str(mine))
    assert (experiment.optimizer.lr, experiment.data.path) == (0.001, "2026-11-26")


def test_a_users_own_file_is_a_preset_too(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "data: {source: demo, image_size: 32}\nstudent: {image_size: 32}\noptimizer: {epochs: 3}\n"
    )
    assert load_experiment(str(mine)).optimizer.epochs == 3


def test_the_resolved_tree_makes_the_same_experiment_again():
    experiment = load_experiment(
        "cifar10", {"views.custom": {"mild": {"area": [0.5, 1.0]}}, "views.recipe": "mild"}
    )
    assert with_values(experiment, {}) == experiment
    assert flatten(experiment.model_dump(mode="json"))["views.custom.mild.area"] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (
            "objective.teacher_temp=0.1",
            "objective.teacher_temp is not a setting; did you mean objective.teacher_temperature",
        ),
        ("teacher_temperature=1", "did you mean objective.teacher_temperature"),
        ("objctive.name=csm", "objctive is not a setting; did you mean objective.name?"),
        ("storag.path=x", "storag is not a setting; did you mean storage.path?"),
        ("probe.gird.lr=[1]", "probe.gird is not a setting; did you mean probe.grid.lr?"),
        ("prob.knn=2", "prob is not a setting; did you mean probe.knn_k or probe.knn_temp"),
        ("train.epochs=2", "train is not a setting; did you mean optimizer.epochs or probe.grid"),
        ("optmizer={}", "optmizer is not a setting; did you mean optimizer.name or optimizer.lr"),
        (
            "student.bakbone=x",
            "student.bakbone is not a setting; did you mean student.backbone?",
        ),
        ("objective.simclr.temp=1", "not a setting; did you mean objective.simclr.temperature"),
        ("optimizer.xyz=1", "optimizer.xyz is not a setting; known are optimizer.name, optimizer"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast': input should be a valid number"),
        ("optimizer.epochs=1.5", "optimizer.epochs is 1.5: input should be a valid integer"),
        (
            "objective.student_temperature=0",
            "objective.student_temperature is 0: input should be greater than 0",
        ),
        (
            "objective.teacher_temperature=-0.1",
            "objective.teacher_temperature is -0.1: input should be greater than 0",
        ),
        (
            "objective.name=cms",
            "objective.name: objective cms does not exist; did you mean csm?",
        ),
        ("anchors.prompt_set=openai_8", "did you mean openai_80"),
        ("views.recipe=simcrl", "recipe simcrl does not exist; did you mean simclr"),
        ("views.custom={weak: {}}", "weak is the name of a built-in recipe"),
        ("views.custom={a: {area: [0.9, 0.1]}}", "area is [0.9, 0.1]; write the smaller"),
        (
            "scaling.workers=3",
            "optimizer.batch_size 128 can't be shared evenly by scaling.workers 3; 126 can",
        ),
        (
            "student.image_size=64",
            "student.image_size 64 is larger than the stored images of data.image_size 32",
        ),
        ("optimizer.warmup_epochs=100", "leaves nothing"),
        ("data.path=x", "data.source is demo, which needs no data.path"),
        ("data=3", "data is 3; write its settings, such as {key: 1}"),
        (
            "optimizer.batch_size=2",
            "optimizer.batch_size 2 gives each of scaling.workers 2 one image",
        ),
        (
            "seed=18446744073709551616",
            "seed is 18446744073709551616: input should be less than or equal to",
        ),
        (
            "objective.compress.queue=1",
            "objective.compress.queue is 1: input should be greater than or equal to 2",
        ),
        (
            "objective.image_queue.queue=1",
            "objective.image_queue.queue is 1: input should be greater than or equal to 2",
        ),
        (
            "scaling.gpus_per_worker=0.5",
            "scaling.gpus_per_worker 0.5 is a fraction, which only a single worker",
        ),
        ("scaling={workers: 1, gpus_per_worker: 1.5}", "scaling.gpus_per_worker 1.5 is a fraction"),
        ("probe.few_shot=4", "probe.few_shot is 4; write a list, such as [1, 2]"),
        ("objective.terms=3", "objective.terms is 3; write a mapping, such as {name: 1}"),
        ("optimizer.lr=!!binary aGk=", "optimizer.lr is \"b'hi'\""),
        ("optimizer.lr=2026-11-26", "optimizer.lr is '2026-11-26': input should be a valid number"),
        ("probe.knn_k=[]", "probe.knn_k has 0 values, but needs 1 or more"),
    ],
)
def test_an_error_is_one_sentence_with_the_key(assignment, says):
    with pytest.raises(UserError) as caught:
        load_experiment("demo", parse_assignments([assignment]))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", ["optimizer.lr", "=3", "a.b=[1, 2"])
def test_an_assignment_without_a_value_is_named(item):
    with pytest.raises(UserError, match="--set"):
        parse_assignments([item])


def test_an_unknown_preset_is_reported_with_similar_names():
    with pytest.raises(UserError, match="preset cifar100 does not exist; did you mean cifar10"):
        load_experiment("cifar100")


@pytest.mark.parametrize("content", [b"- a list", b"a: [1", b"\xff\xfe"])
def test_a_preset_file_that_is_not_a_mapping_is_named(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_preset(str(path))


def test_objectives_that_compare_pairs_of_views_have_their_own_recipe():
    base = load_experiment("demo", {"views.pair_recipe": "simclr"})
    assert base.student_views is base.views and base.views.recipe == "scenes"
    pairs = with_values(base, {"objective.name": "csm+simclr"})
    assert (
        pairs.student_views.recipe == "simclr" and pairs.student_views.stored == base.views.stored
    )
    assert with_values(pairs, {"views.pair_recipe": None}).student_views.recipe == "scenes"
    with pytest.raises(UserError, match="recipe simclur does not exist.*did you mean simclr"):
        load_experiment("demo", {"views.pair_recipe": "simclur"})


def test_the_error_names_the_key_whose_views_are_all_the_same():
    simclr = {"objective.name": "simclr"}
    with pytest.raises(UserError, match=r"views\.pair_recipe center are all the same"):
        load_experiment("demo", simclr | {"views.pair_recipe": "center"})
    with pytest.raises(UserError, match=r"views\.recipe center are all the same"):
        load_experiment("demo", simclr | {"views.pair_recipe": None, "views.recipe": "center"})


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("ViT-B-32", "openai"),
        ("local-dir:/teachers/own", None),
        ("hf-hub:somebody/clip", None),
        ("demo", None),
    ],
)
def test_an_unused_pretrained_tag_is_dropped(model, kept):
    experiment = load_experiment(
        "cifar10", {"teacher.model": model, "teacher.pretrained": "openai"}
    )
    assert experiment.teacher.pretrained == kept
    assert validate(Experiment, experiment.model_dump(mode="json")) == experiment
