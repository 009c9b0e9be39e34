"""Evidence from images that no label touches: which sense of a class name do they show, and does the teacher know the classes at all?"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.anchors import AnchorSet
from beamclip.anchors.senses import Sense, propose
from beamclip.anchors.text_embeddings import shortened
from beamclip.anchors.wordnet import Synset, open_lexicon
from beamclip.config import Experiment
from beamclip.data import PackedImages, open_packed, split
from beamclip.evaluation import accuracy, wilson_interval, zero_shot_logits
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import basis_of
from beamclip.preparation.teacher_passes import held_out_views
from beamclip.teachers import Embeddings, Teacher, covering_store, some_store

# What unlabelled images say of the senses of a class.


_CHUNK = 1 << 16  # images compared at a time


def evidence_of_images(
    images: NDArray[np.floating], texts: NDArray[np.floating], share: float
) -> NDArray[np.float64]:
    """How well each candidate sense of one class is seen in unlabelled images.

    Args:
        images: unit rows [N, D], N > 0, of all classes together.
        texts: unit rows [S, D], one a candidate sense.
        share: the share of the images that may be of this class, such as 1 / number of classes.

    Returns:
        [S] mean cosine of each sense's nearest max(1, share · N) images.
    """
    count = min(max(1, round(share * len(images))), len(images))
    columns = texts.astype(np.float32).T
    nearest_cosines = np.empty((0, len(texts)), np.float32)
    for start in range(0, len(images), _CHUNK):
        cosines = np.concatenate(
            [nearest_cosines, images[start : start + _CHUNK].astype(np.float32) @ columns]
        )
        keep = min(count, len(cosines))
        nearest_cosines = np.partition(cosines, len(cosines) - keep, axis=0)[len(cosines) - keep :]
    return np.asarray(nearest_cosines.mean(axis=0, dtype=np.float64))


_MOST = 20000  # images are enough to tell senses apart


def packed_if_there(experiment: Experiment, workshop: PreparationContext) -> PackedImages | None:
    """An experiment's packed images where they are packed already."""
    path = workshop.packed_path(experiment.data)
    return open_packed(path) if path.exists() else None


def proposals(
    experiment: Experiment, senses: Sequence[Sense], workshop: PreparationContext
) -> tuple[Sense, ...] | None:
    """The senses that the training images speak for, where a teacher has seen them. Encodes texts only.

    Returns:
        For every class its sense, changed where it had to be weighed; None where no embeddings are stored yet.
    """
    images = _seen_images(experiment, workshop)
    if images is None:
        return None
    teacher, lexicon = workshop.teacher(experiment.teacher), open_lexicon()

    def weigh(sense: Sense) -> Sense:
        texts = _texts(sense.name, sense.considered, teacher)
        return propose(sense, evidence_of_images(images, texts, 1 / len(senses)), lexicon)

    return tuple(weigh(sense) if sense.scores else sense for sense in senses)


def _seen_images(
    experiment: Experiment, workshop: PreparationContext
) -> NDArray[np.float32] | None:
    packed = packed_if_there(experiment, workshop)
    if packed is None:
        return None
    store = some_store(workshop.root, packed.key, workshop.teacher(experiment.teacher).fingerprint)
    if store is None:
        return None
    embeddings = Embeddings(store)
    train = np.intersect1d(embeddings.ids, split(packed, experiment.data).train)
    evenly = train[
        :: -(-len(train) // _MOST) or 1
    ]  # ids follow the source, which may have one class after the other
    return embeddings.gather(evenly, 0) if len(evenly) else None


def _texts(name: str, candidates: Sequence[Synset], teacher: Teacher) -> NDArray[np.float32]:
    texts = [f"a photo of a {name.replace('_', ' ')}, {synset.gloss}." for synset in candidates]
    cut = shortened(texts, teacher.tokenizer)
    embeddings: NDArray[np.float32] = teacher.encode_texts(
        [cut.get(text, text) for text in texts]
    ).numpy()
    return embeddings


def teacher_zero_shot(
    experiment: Experiment, own: AnchorSet, workshop: PreparationContext
) -> tuple[float, float] | None:
    """The first teacher's own accuracy on val (per cent) and the lower end of its 95 % interval, where it has seen val already."""
    packed = packed_if_there(experiment, workshop)
    if packed is None:
        return None
    views = held_out_views(split(packed, experiment.data))
    store = covering_store(
        workshop.root, basis_of(workshop.teacher(experiment.teacher), packed, views), views
    )
    if store is None:
        return None
    val = split(packed, experiment.data).val
    logits = zero_shot_logits(torch.from_numpy(Embeddings(store).gather(val, 0)), own.embeddings)
    per_cent = accuracy(logits, torch.from_numpy(packed.labels[val]))
    return per_cent, wilson_interval(per_cent, len(val))[0]
