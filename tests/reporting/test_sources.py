import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from beamclip.anchors import AnchorSet
from beamclip.config import UserError, load_experiment
from beamclip.evaluation import zero_shot_predict
from beamclip.preparation.embedding_store import render_for_teacher
from beamclip.reporting.sources import (
    TrialStores,
    encode_jpeg,
    find_sweep_record,
    open_trial_stores,
    teacher_predictions,
)
from beamclip.stores import open_store
from beamclip.teachers import ViewSet

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(stores):
    return TrialStores(
        stores["packed"], stores["packed"].names, stores["anchors"], stores["fingerprint"]
    )


def test_the_record_is_found_by_the_sweep_s_tag_or_in_the_given_storage(swept, page_base, tmp_path):
    elsewhere = load_experiment("demo", {"storage.path": str(tmp_path / "other")})
    assert find_sweep_record(swept, elsewhere).sweep_id == swept.sweep_id
    untagged = replace(swept, tags={})
    assert find_sweep_record(untagged, page_base).sweep_id == swept.sweep_id
    with pytest.raises(UserError, match=r"can't be read in .*other.* --storage"):
        find_sweep_record(untagged, elsewhere)


def test_a_trial_s_stores_are_those_in_its_tags(swept, page_base, stores):
    record = find_sweep_record(swept, page_base)
    found = open_trial_stores(record, swept.best)
    assert (found.packed.key, found.names, found.fingerprint) == (
        stores["packed"].key,
        stores["packed"].names,
        stores["fingerprint"],
    )
    with pytest.raises(UserError, match="names no stores of the trial"):
        open_trial_stores(record, replace(swept.best, tags={"data_key": "other"}))


def test_teacher_predictions_from_the_store_are_those_of_the_live_teacher(opened, teacher):
    ids = opened.packed.test_ids
    views = render_for_teacher(teacher, opened.packed, ViewSet.center(ids), ids, 0)
    anchors = AnchorSet.open(open_store(opened.anchors)).embeddings
    live = zero_shot_predict(teacher.encode_images(views), anchors)
    assert (teacher_predictions(opened, ids) == live.numpy()).mean() > 0.9
    shuffled = ids[::-1].copy()
    assert (teacher_predictions(opened, shuffled) == teacher_predictions(opened, ids)[::-1]).all()


def test_samples_or_teachers_without_a_store_raise(opened):
    with pytest.raises(UserError, match="has the teacher's embeddings"):
        teacher_predictions(opened, np.arange(3))  # the store begins later
    with pytest.raises(UserError, match="has the teacher's embeddings"):
        teacher_predictions(replace(opened, fingerprint="another"), opened.packed.test_ids)
    with pytest.raises(UserError, match="no class anchors"):
        teacher_predictions(replace(opened, anchors=None), opened.packed.test_ids)


def test_large_images_are_shrunk_and_small_ones_kept():
    for side, shown in ((32, 32), (300, 128)):
        image = Image.open(io.BytesIO(encode_jpeg(np.full((side, side, 3), 200, np.uint8))))
        assert (image.format, image.size) == ("JPEG", (shown, shown))
