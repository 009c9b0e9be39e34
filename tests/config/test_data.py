import pytest

from beamclip.config import UserError, load_experiment


@pytest.mark.parametrize(
    ("values", "active"),
    [
        ({}, False),
        ({"remove": 0}, False),
        ({"remove": 0.2}, True),
        ({"threshold": 0.1}, True),
        ({"search": "index"}, False),
    ],
)
def test_balance_is_off_unless_something_may_be_left_out(values, active):
    balance = load_experiment(
        "demo", {f"balance.{key}": value for key, value in values.items()}
    ).balance
    assert balance.active == active


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"balance.threshold": 0.1, "balance.remove": 0.2}, "threshold and remove are both given"),
        ({"balance.remove": 1.0}, "balance.remove"),
        ({"balance.remove": -0.1}, "balance.remove"),
        ({"balance.threshold": 0.0}, "balance.threshold"),
        ({"balance.search": "hnsw"}, "balance.search"),
    ],
)
def test_impossible_settings_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        load_experiment("demo", values)
