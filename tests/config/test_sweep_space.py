import pytest

from beamclip.config import Sweep, UserError, choice, load_experiment, loguniform, validate


def swept(**dimension):
    return {"name": "s", "search": "random", "space": {"optimizer.lr": dimension}}


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_range_has_two_ends(end, number):
    with pytest.raises(UserError, match=rf"space.optimizer.lr.uniform.{end} is .*finite number"):
        validate(Sweep, swept(kind="uniform", **({"low": 0.1, "high": 0.2} | {end: number})))


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_no_number_can_t_be_tried(number):
    with pytest.raises(
        UserError, match=r"space.optimizer.lr.choice.values: (inf|nan) is no number to try"
    ):
        validate(Sweep, swept(kind="choice", values=[0.1, number]))


def test_values_of_every_kind_keep_theirs():
    values = [True, 1, 1.5, "a", None]
    assert validate(Sweep, swept(kind="choice", values=values)).space["optimizer.lr"] == choice(
        *values
    )
    assert validate(Sweep, swept(kind="uniform", low=0.1, high=1, log=True)).space[
        "optimizer.lr"
    ] == loguniform(0.1, 1.0)
    with pytest.raises(UserError, match="space.optimizer.lr.choice.values is 3; write a list"):
        validate(Sweep, swept(kind="choice", values=3))


@pytest.mark.parametrize(
    "key",
    [
        "optimizer.lr",
        "optimizer.weight_decay",
        "objective.student_temperature",
        "probe.knn_temperature",
    ],
)
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_no_setting_is_endless(key, number):
    with pytest.raises(UserError, match=f"{key} is {number}: input should be a finite number"):
        load_experiment("demo", {key: number})
