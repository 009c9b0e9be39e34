"""Planning and building through the preparer, on a real Ray."""

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


def test_the_plan_comes_true(cluster, preset, tmp_path):
    """What is planned is made, once for all experiments; then all of it is there; then stored and live agree."""
    from beamclip.distributed.prepare_actor import Preparation

    planned = [
        tiny.experiment(preset, tmp_path, views__stored=stored, objective__student_temperature=t)
        for stored in (1, 2)
        for t in (0.1, 0.2)
    ]
    seen = []
    preparation = Preparation(planned, tmp_path / "stores", lambda *state: seen.append(state))
    before = preparation.plan()
    assert not any(need["there"] for need in before) and {need["store"] for need in before} == {
        "images",
        "embeddings",
        "anchors",
    }
    assert not list(tmp_path.rglob("manifest.json"))
    made = preparation.build(untrained=True)
    after = preparation.plan()
    assert all(need["there"] for need in after) and not any(need["images"] for need in after)
    assert [need["what"] for need in after if need["store"] == "embeddings"] == [
        "tiny, 2 views of 144 images",
        "tiny, the central view of 56 images",
    ]
    assert len(made["assets"]) == 2  # temperatures share everything
    assert 0 < made["untrained"]["linear_probe/test_top1"] <= 100
    assert any(state[0] == "teacher images" for state in seen) and seen[-1] == ("", 0, 0)
    assert all(one["lowest"] > 0.999 and one["views"] == 20 for one in preparation.verify(20))
    preparation.close()


def test_what_is_wrong_arrives_as_one_sentence(cluster, preset, tmp_path):
    from beamclip.distributed.prepare_actor import Preparation

    for settings, match in (
        (
            {"teacher__model": "local-dir:/nowhere"},
            "^teacher.model names the folder /nowhere, which does not exist",
        ),
        (
            {"optimiser__batch_size": 1000},
            "^optimiser.batch_size 1000 is more than the 144 training images",
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


def test_a_lost_preparer_is_a_sentence(cluster, preset, tmp_path):
    import ray

    from beamclip.distributed.prepare_actor import Preparation

    preparation = Preparation(
        [tiny.experiment(preset, tmp_path)], tmp_path / "stores", lambda *state: None
    )
    ray.kill(preparation._actor)
    with pytest.raises(
        UserError, match="is gone .*finished shards are kept: run the same command again to go on"
    ):
        preparation.plan()
