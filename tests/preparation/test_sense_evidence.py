from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import AnchorSet
from beamclip.config import with_values
from beamclip.data import open_packed, split
from beamclip.preparation import sense_evidence
from beamclip.preparation.anchors import plan_anchor_sets
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.sense_evidence import (
    open_packed_if_exists,
    propose_senses,
    teacher_zero_shot,
)
from beamclip.stores import StoreDamaged, open_store
from beamclip.teachers import Embeddings, Teacher

pytestmark = [pytest.mark.usefixtures("excerpt"), pytest.mark.slow]
BIRD, MACHINE, DEVICE = "n02012849", "n03126707", "n03793489"
GLOSSES = {
    BIRD: "large long-necked wading",
    MACHINE: "lifts and moves",
    DEVICE: "hand-operated electronic",
}


@pytest.fixture
def named(experiment, tmp_path):
    """Two class names have several senses, one has a context, and one is no word."""
    names = tmp_path / "names.txt"
    names.write_text("crane\nmouse\nsand\tof a beach\nqwrtz\n")
    return with_values(experiment, {"data.class_names": str(names)})


def senses(experiment, context):
    return plan_anchor_sets(experiment, context).own[1].senses


@pytest.fixture
def planted(stores, assets, monkeypatch):
    """`planted("lifts")`: embed texts that contain these words like the images.

    All other texts are embedded opposite. Returns the list of encoded texts.
    """
    center = F.normalize(
        torch.from_numpy(Embeddings(open_store(Path(assets.teachers[0].views))).all()[:, 0])
        .float()
        .mean(0),
        dim=0,
    )

    def plant(*phrases):
        encoded = []

        def encode(self, texts):
            encoded.extend(texts)
            return torch.stack(
                [center if any(phrase in text for phrase in phrases) else -center for text in texts]
            )

        monkeypatch.setattr(Teacher, "encode_texts", encode)
        return encoded

    return plant


def test_without_stored_embeddings_nothing_is_proposed(named, packed_only, tmp_path):
    for root in (tmp_path / "empty", packed_only):
        context = PreparationContext(root)
        assert propose_senses(named, senses(named, context), context) is None


@pytest.mark.parametrize("synset", [BIRD, MACHINE])
def test_the_sense_that_the_images_show_is_proposed(named, stores, assets, planted, synset):
    planted(GLOSSES[synset], GLOSSES[DEVICE])
    context = PreparationContext(stores)
    before = senses(named, context)
    crane, mouse, sand, qwrtz = propose_senses(named, before, context)
    assert (crane.synset.id, mouse.synset.id) == (synset, DEVICE)
    assert before[0].synset.id == MACHINE and before[0].why.startswith(
        "fits the other classes best"
    )
    assert crane.why.startswith("fits the other classes and the images best (1.00, next 0.00)")
    assert crane.why.endswith(f"without images it was {MACHINE}") == (synset == BIRD)
    assert len(crane.scores) == 5 and crane.considered == before[0].considered
    # These two names have no choice of senses.
    assert (sand, qwrtz) == before[2:]


def test_named_things_are_not_proposed(named, stores, assets, planted):
    planted("United States", GLOSSES[BIRD])
    crane = propose_senses(
        named, senses(named, PreparationContext(stores)), PreparationContext(stores)
    )[0]
    assert crane.synset.id == BIRD and [score > 0 for score in crane.scores] == [
        not synset.instance for synset in crane.considered
    ]


def test_every_sense_is_encoded_with_its_definition_truncated(
    named, stores, assets, planted, teacher
):
    encoded = planted("nothing")
    propose_senses(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    assert len(encoded) == 5 + 4 and {text.split(",")[0] for text in encoded} == {
        "a photo of a crane",
        "a photo of a mouse",
    }
    # Truncated after a whole word, like prompts.
    assert "a photo of a crane, large long-necked wading." in encoded


def test_one_view_of_evenly_chosen_training_images_is_used(
    named, stores, assets, planted, monkeypatch
):
    """Ids may be sorted by class: the first ids would show the first classes only."""
    planted(GLOSSES[BIRD])
    gathered = []
    gather = Embeddings.gather
    monkeypatch.setattr(
        Embeddings,
        "gather",
        lambda self, ids, view: gathered.append((ids, view)) or gather(self, ids, view),
    )
    monkeypatch.setattr(sense_evidence, "_MAX_IMAGES", 10)
    propose_senses(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    ((ids, view),) = gathered
    packed = open_packed(Path(assets.packed))
    assert view == 0 and len(ids) == 10 and np.isin(ids, split(packed, named.data).train).all()
    assert set(packed.labels[ids].tolist()) == {0, 1, 2, 3}


def test_any_number_of_images_up_to_the_maximum_is_used(
    named, stores, assets, planted, monkeypatch
):
    planted(GLOSSES[BIRD])
    gathered = []
    gather = Embeddings.gather
    monkeypatch.setattr(
        Embeddings,
        "gather",
        lambda self, ids, view: gathered.append(len(ids)) or gather(self, ids, view),
    )
    for most in (1, 127, 128, 1000):
        monkeypatch.setattr(sense_evidence, "_MAX_IMAGES", most)
        propose_senses(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    assert gathered == [1, 64, 128, 128]


def test_packed_images_are_opened_if_they_exist(experiment, copied_stores, assets, tmp_path):
    assert open_packed_if_exists(experiment, PreparationContext(tmp_path / "empty")) is None
    assert (
        open_packed_if_exists(experiment, PreparationContext(copied_stores)).key
        == Path(assets.packed).name
    )
    (copied_stores / "packed" / Path(assets.packed).name / "labels.npy").write_bytes(b"")
    with pytest.raises(StoreDamaged, match="labels.npy has 0 bytes instead of"):
        open_packed_if_exists(experiment, PreparationContext(copied_stores))


def test_the_teacher_s_accuracy_equals_that_in_the_asset_facts(experiment, stores, assets):
    own = AnchorSet.open(open_store(Path(assets.classes)))
    per_cent, low = teacher_zero_shot(experiment, own, PreparationContext(stores))
    assert (per_cent, low) == (
        assets.facts.zero_shot_val.top1,
        assets.facts.zero_shot_val.low,
    )
    assert 0 <= low < per_cent
    turned = AnchorSet(own.embeddings.roll(1, 0), own.names, own.key)
    assert teacher_zero_shot(experiment, turned, PreparationContext(stores))[0] != per_cent


def test_zero_shot_is_unknown_until_val_is_encoded(
    experiment, packed_only, assets, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        Teacher, "encode_images", lambda *arguments: pytest.fail("an image was encoded")
    )
    own = AnchorSet.open(open_store(Path(assets.classes)))
    for root in (tmp_path / "empty", packed_only):
        assert teacher_zero_shot(experiment, own, PreparationContext(root)) is None
