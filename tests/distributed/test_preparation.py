"""Planning and building stores through the actor, on a real Ray."""

import os

import pytest
from helpers import tiny

from beamclip.config import UserError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ["RAY_ADDRESS"] = "local"
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def test_the_built_stores_are_those_planned(cluster, preset, tmp_path):
    """All planned stores are built, once for all experiments; stored and live embeddings agree."""
    from beamclip.distributed.prepare_actor import Preparation

    planned = [
        tiny.experiment(preset, tmp_path, views__stored=stored, objective__student_temperature=t)
        for stored in (1, 2)
        for t in (0.1, 0.2)
    ]
    progress = []
    preparation = Preparation(planned, tmp_path / "stores", lambda *state: progress.append(state))
    before = preparation.plan()
    assert not any(store["exists"] for store in before) and {
        store["store"] for store in before
    } == {
        "images",
        "embeddings",
        "anchors",
    }
    assert not list(tmp_path.rglob("manifest.json"))
    built = preparation.build(untrained=True)
    after = preparation.plan()
    assert all(store["exists"] for store in after) and not any(store["images"] for store in after)
    assert [store["description"] for store in after if store["store"] == "embeddings"] == [
        "tiny, 2 views of 144 images",
        "tiny, the central view of 56 images",
    ]
    assert len(built["assets"]) == 2  # both temperatures use the same stores
    assert 0 < built["untrained"]["linear_probe/test_top1"] <= 100
    assert any(state[0] == "teacher images" for state in progress) and progress[-1] == ("", 0, 0)
    assert all(
        result["lowest"] > 0.999 and result["views"] == 20 for result in preparation.verify(20)
    )
    preparation.close()


def test_an_error_arrives_as_one_sentence(cluster, preset, tmp_path):
    from beamclip.distributed.prepare_actor import Preparation

    for settings, match in (
        (
            {"teacher__model": "local-dir:/nowhere"},
            "^teacher.model names the folder /nowhere, which does not exist",
        ),
        (
            {"optimizer__batch_size": 1000},
            "^optimizer.batch_size 1000 is more than the 144 training images",
        ),
    ):
        preparation = Preparation(
            [tiny.experiment(preset, tmp_path, **settings)],
            tmp_path / "stores",
            lambda *state: None,
        )
        with pytest.raises(UserError, match=match):
            preparation.build(untrained=False)
        preparation.close()


def test_a_lost_actor_is_a_user_error(cluster, preset, tmp_path):
    import ray

    from beamclip.distributed.prepare_actor import Preparation

    preparation = Preparation(
        [tiny.experiment(preset, tmp_path)], tmp_path / "stores", lambda *state: None
    )
    ray.kill(preparation._actor)
    with pytest.raises(
        UserError,
        match="is gone .*finished shards are kept: run the same command again to continue",
    ):
        preparation.plan()
