from mlflow.utils.validation import _validate_param_name

from beamclip.config import load_experiment
from beamclip.tracking.serialize import run_name, settings_params, short_names


def test_passwords_in_addresses_are_not_among_the_params():
    base = load_experiment(
        "demo", {"tracking.uri": "postgresql://me:secret@host/mlflow", "storage.path": "/x"}
    )
    params = settings_params(base)
    assert params["tracking.uri"] == "postgresql://…@host/mlflow"
    assert "secret" not in str(params) and params["storage.path"] == "/x"


def test_run_names_are_short():
    values = {
        "objective.teacher_temperature": 0.05,
        "objective.student_temperature": 0.123456,
        "optimizer.name": "sgd",
    }
    assert run_name(values) == "τ_T=0.05 τ_S=0.1235 name=sgd"
    assert run_name({}) == "base"


def test_keys_with_the_same_last_part_keep_two_parts():
    assert short_names(["optimizer.name", "objective.name", "seed"]) == {
        "optimizer.name": "optimizer.name",
        "objective.name": "objective.name",
        "seed": "seed",
    }


def test_settings_of_an_objective_are_params_and_its_code_is_not(tmp_path):
    file = tmp_path / "my.py"
    file.write_text(
        "@register_objective(requires=Requirements(labels=True))\n"
        "def codebook(inputs, *, size: int = 8):\n    pass\n"
    )
    settings = {"objective.code": {str(file): file.read_text()}}
    params = settings_params(
        load_experiment("demo", settings | {"objective.name": f"{file}:codebook"})
    )
    assert params["objective.codebook.size"] == "8"
    assert not [key for key in params if key.startswith("objective.code.")]


def test_names_that_mlflow_would_read_as_other_paths_are_params_too():
    names = ["crane/", "a//b", "and/or"]
    base = load_experiment("demo", {"anchors.senses": dict.fromkeys(names, "a bird")})
    params = settings_params(base)
    assert [key for key in params if key.startswith("anchors.senses.")] == [
        "anchors.senses.crane_",
        "anchors.senses.a__b",
        "anchors.senses.and/or",
    ]
    for key in params:
        _validate_param_name(key)
