from beamclip.config import load_experiment
from beamclip.tracking.serialize import params


def test_passwords_in_addresses_are_not_among_the_params():
    base = load_experiment(
        "demo", {"tracking.uri": "postgresql://me:secret@host/mlflow", "storage.path": "/x"}
    )
    found = params(base)
    assert found["tracking.uri"] == "postgresql://…@host/mlflow"
    assert "secret" not in str(found) and found["storage.path"] == "/x"
