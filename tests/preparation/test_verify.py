import json
from pathlib import Path

import numpy as np
import pytest

from beamclip.cli.stores import MIN_VERIFIED_COSINE
from beamclip.config import RECIPES, with_values
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.throughput import Throughput
from beamclip.preparation.verify import MIN_COSINE, verify
from beamclip.stores import file_hash

pytestmark = pytest.mark.slow


def overwrite(store, change):
    """Change the embeddings of a store and the checksum in its manifest."""
    path = Path(store) / "rows-00000.npy"
    np.save(path, change(np.load(path)))
    manifest = json.loads((Path(store) / "manifest.json").read_text())
    manifest["files"]["rows-00000.npy"] |= {"sha256": file_hash(path), "bytes": path.stat().st_size}
    (Path(store) / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_agrees_with_its_teacher_in_batches_of_another_size(
    experiment, packed_only, recipe
):
    cell = with_values(experiment, {"views.recipe": recipe, "teacher.batch_size": None})
    context = PreparationContext(
        packed_only, measure_throughput=lambda teacher: Throughput(23, 0.0)
    )
    prepare(cell, context)
    # The views are encoded again in batches of 7 to 13.
    found = verify([cell], PreparationContext(packed_only), 60)
    assert sum(result.views for result in found) == 60 * len(found)
    assert all(result.teacher == Path(experiment.teacher.model).name for result in found)
    assert all(MIN_COSINE < result.lowest <= result.mean <= 1.001 for result in found)
    plans = [
        json.loads(path.read_text()) for path in (packed_only / "embeddings").glob("*/plan.json")
    ]
    assert {plan["batch_size"] for plan in plans} == {23}


def test_every_store_of_every_experiment_is_verified_once(experiment, stores, other_folder):
    others = {"teacher.others": [{"model": f"local-dir:{other_folder}"}]}
    cells = [
        experiment,
        with_values(experiment, others),
        with_values(experiment, {"views.teacher": "center"}),
        experiment,
    ]
    found = verify(cells, PreparationContext(stores), 20)
    # Train of both teachers; the central views of train, val and test.
    assert len({result.store for result in found}) == len(found) == 3
    assert {result.teacher for result in found} == {
        Path(experiment.teacher.model).name,
        other_folder.name,
    }
    assert all(result.lowest > MIN_COSINE for result in found)


@pytest.mark.parametrize(
    "change",
    [
        # Rows under the wrong ids.
        lambda rows: rows[::-1],
        # Views under the wrong numbers.
        lambda rows: rows[:, ::-1],
        # A single sample.
        lambda rows: np.where(
            np.arange(len(rows))[:, None, None] == 5, np.roll(rows, 1, axis=2), rows
        ),
    ],
)
def test_a_store_with_other_embeddings_is_found(experiment, copied_stores, change):
    train = prepare(experiment, PreparationContext(copied_stores)).teachers[0].views
    overwrite(train, change)
    found = {
        result.store: result
        for result in verify([experiment], PreparationContext(copied_stores), 10_000)
    }
    assert found.pop(train).lowest < 0.99
    (held_out,) = found.values()
    assert held_out.lowest > MIN_COSINE


def test_missing_stores_are_built_and_a_teacher_inside_training_has_only_val_and_test(
    experiment, packed_only
):
    live = with_values(experiment, {"views.teacher": "live"})
    (result,) = verify([live], PreparationContext(packed_only), 1000)
    assert result.views == 64 and result.lowest > MIN_COSINE


def test_the_command_line_uses_the_same_threshold():
    assert MIN_VERIFIED_COSINE == MIN_COSINE
