from beamclip.tracking.serialize import run_name, short_names


def test_run_names_are_short():
    values = {
        "objective.teacher_temperature": 0.05,
        "objective.student_temperature": 0.123456,
        "optimiser.name": "sgd",
    }
    assert run_name(values) == "τ_T=0.05 τ_S=0.1235 name=sgd"
    assert run_name({}) == "base"


def test_keys_that_end_alike_keep_two_parts():
    assert short_names(["optimiser.name", "objective.name", "seed"]) == {
        "optimiser.name": "optimiser.name",
        "objective.name": "objective.name",
        "seed": "seed",
    }
