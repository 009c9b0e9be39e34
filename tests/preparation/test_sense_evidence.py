from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import AnchorSet
from beamclip.config import with_values
from beamclip.data import open_packed, split
from beamclip.preparation import sense_evidence as evidence
from beamclip.preparation.anchors import anchor_sets_of
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.sense_evidence import packed_if_there, proposals, teacher_zero_shot
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
    """The experiment with two classes whose names have several senses, one that is said and one that no noun is."""
    names = tmp_path / "names.txt"
    names.write_text("crane\nmouse\nsand\tof a beach\nqwrtz\n")
    return with_values(experiment, {"data.class_names": str(names)})


def senses(experiment, workshop):
    return anchor_sets_of(experiment, workshop).own[1].senses


@pytest.fixture
def planted(stores, assets, monkeypatch):
    """`planted("lifts")`: texts with this in them lie where the images do, all others opposite. Returns the texts asked for."""
    centre = F.normalize(
        torch.from_numpy(Embeddings(open_store(Path(assets.teachers[0].views))).all()[:, 0])
        .float()
        .mean(0),
        dim=0,
    )

    def plant(*wanted):
        asked = []

        def encode(self, texts):
            asked.extend(texts)
            return torch.stack(
                [centre if any(words in text for words in wanted) else -centre for text in texts]
            )

        monkeypatch.setattr(Teacher, "encode_texts", encode)
        return asked

    return plant


def test_images_that_no_teacher_has_seen_say_nothing(named, packed_only, tmp_path):
    for root in (tmp_path / "empty", packed_only):
        workshop = PreparationContext(root)
        assert proposals(named, senses(named, workshop), workshop) is None


@pytest.mark.parametrize("synset", [BIRD, MACHINE])
def test_the_sense_that_lies_where_the_images_are_is_proposed(
    named, stores, assets, planted, synset
):
    planted(GLOSSES[synset], GLOSSES[DEVICE])
    workshop = PreparationContext(stores)
    before = senses(named, workshop)
    crane, mouse, sand, qwrtz = proposals(named, before, workshop)
    assert (crane.synset.id, mouse.synset.id) == (synset, DEVICE)
    assert before[0].synset.id == MACHINE and before[0].why.startswith(
        "fits the other classes best"
    )
    assert crane.why.startswith("fits the other classes and the images best (1.00, next 0.00)")
    assert crane.why.endswith(f"without images it was {MACHINE}") == (synset == BIRD)
    assert len(crane.scores) == 5 and crane.considered == before[0].considered
    assert (sand, qwrtz) == before[2:]  # nothing had to be weighed there


def test_named_things_are_not_proposed(named, stores, assets, planted):
    planted("United States", GLOSSES[BIRD])
    crane = proposals(named, senses(named, PreparationContext(stores)), PreparationContext(stores))[
        0
    ]
    assert crane.synset.id == BIRD and [score > 0 for score in crane.scores] == [
        not one.instance for one in crane.considered
    ]


def test_every_sense_is_asked_about_in_words_that_fit(named, stores, assets, planted, teacher):
    asked = planted("nothing")
    proposals(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    assert len(asked) == 5 + 4 and {text.split(",")[0] for text in asked} == {
        "a photo of a crane",
        "a photo of a mouse",
    }
    assert "a photo of a crane, large long-necked wading." in asked  # at a word, as prompts are


def test_only_training_images_are_looked_at_evenly_and_in_one_view(
    named, stores, assets, planted, monkeypatch
):
    """Ids follow the source, class by class: the first so many would be of the first classes only."""
    planted(GLOSSES[BIRD])
    looked, gather = [], Embeddings.gather
    monkeypatch.setattr(
        Embeddings,
        "gather",
        lambda self, ids, view: looked.append((ids, view)) or gather(self, ids, view),
    )
    monkeypatch.setattr(evidence, "_MOST", 10)
    proposals(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    ((ids, view),) = looked
    packed = open_packed(Path(assets.packed))
    assert view == 0 and len(ids) == 10 and np.isin(ids, split(packed, named.data).train).all()
    assert set(packed.labels[ids].tolist()) == {0, 1, 2, 3}


def test_any_number_of_images_is_looked_at_up_to_the_most(
    named, stores, assets, planted, monkeypatch
):
    planted(GLOSSES[BIRD])
    looked, gather = [], Embeddings.gather
    monkeypatch.setattr(
        Embeddings,
        "gather",
        lambda self, ids, view: looked.append(len(ids)) or gather(self, ids, view),
    )
    for most in (1, 127, 128, 1000):
        monkeypatch.setattr(evidence, "_MOST", most)
        proposals(named, senses(named, PreparationContext(stores)), PreparationContext(stores))
    assert looked == [1, 64, 128, 128]


def test_packed_images_are_opened_where_there_are_any(experiment, copied_stores, assets, tmp_path):
    assert packed_if_there(experiment, PreparationContext(tmp_path / "empty")) is None
    assert (
        packed_if_there(experiment, PreparationContext(copied_stores)).key
        == Path(assets.packed).name
    )
    (copied_stores / "packed" / Path(assets.packed).name / "labels.npy").write_bytes(b"")
    with pytest.raises(StoreDamaged, match="labels.npy has 0 bytes instead of"):
        packed_if_there(experiment, PreparationContext(copied_stores))


def test_the_teacher_s_own_accuracy_is_that_of_the_facts(experiment, stores, assets):
    own = AnchorSet.open(open_store(Path(assets.classes)))
    per_cent, low = teacher_zero_shot(experiment, own, PreparationContext(stores))
    assert (per_cent, low) == (
        assets.facts["teacher/zero_shot_val_top1"],
        assets.facts["teacher/zero_shot_val_top1_low"],
    )
    assert 0 <= low < per_cent
    turned = AnchorSet(own.embeddings.roll(1, 0), own.names, own.key)
    assert teacher_zero_shot(experiment, turned, PreparationContext(stores))[0] != per_cent


def test_a_teacher_that_has_not_seen_val_is_not_asked(
    experiment, packed_only, assets, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        Teacher, "encode_images", lambda *arguments: pytest.fail("an image was encoded")
    )
    own = AnchorSet.open(open_store(Path(assets.classes)))
    for root in (tmp_path / "empty", packed_only):
        assert teacher_zero_shot(experiment, own, PreparationContext(root)) is None
