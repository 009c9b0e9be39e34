"""Choose the sense of a class name by unlabeled images.

A teacher compares the training images with the definition of each candidate sense. It reads no
label and encodes no image: it uses only embeddings that are already stored.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beamclip.anchors import AnchorSet
from beamclip.anchors.senses import Sense, add_image_evidence
from beamclip.anchors.truncation import truncate_texts
from beamclip.anchors.wordnet import Synset, open_lexicon
from beamclip.config import Experiment
from beamclip.data import PackedImages, open_packed, split
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.embedding_store import embedding_basis
from beamclip.preparation.teacher_passes import held_out_views
from beamclip.preparation.zero_shot import ZeroShotAccuracy, teacher_accuracy
from beamclip.teachers import (
    Embeddings,
    Teacher,
    covering_store,
    display_name,
    has_embeddings,
    largest_store,
)

# Images compared at a time. It limits the memory that the fp32 copy and the cosines take.
_CHUNK = 65_536
# Enough images to tell senses apart.
_MAX_IMAGES = 20_000


def score_senses_by_images(
    images: NDArray[np.floating], texts: NDArray[np.floating], share: float
) -> NDArray[np.float64]:
    """Return how well unlabeled images show each candidate sense of one class.

    Args:
        images: embeddings of images of all classes, unit length, [N, D] with N > 0.
        texts: embeddings of the candidate senses' definitions, unit length, [S, D].
        share: expected share of images of this class, such as 1 / number of classes.

    Returns:
        The mean cosine of each sense with its nearest max(1, share * N) images, [S].
    """
    count = min(max(1, round(share * len(images))), len(images))
    columns = texts.astype(np.float32).T
    # The largest `count` cosines of each sense so far, in no order.
    nearest = np.empty((0, len(texts)), np.float32)
    for start in range(0, len(images), _CHUNK):
        cosines = images[start : start + _CHUNK].astype(np.float32) @ columns
        cosines = np.concatenate([nearest, cosines])
        # A partition finds the largest values without sorting all.
        first_kept = max(0, len(cosines) - count)
        nearest = np.partition(cosines, first_kept, axis=0)[first_kept:]
    return np.asarray(nearest.mean(axis=0, dtype=np.float64))


def open_packed_if_exists(
    experiment: Experiment, context: PreparationContext
) -> PackedImages | None:
    """Return an experiment's packed images, or None if they are not packed yet."""
    path = context.packed_path(experiment.data)
    return open_packed(path) if path.exists() else None


def teacher_has_seen_images(experiment: Experiment, context: PreparationContext) -> bool:
    """Return True if the first teacher has encoded images of this data. Loads no teacher."""
    packed = open_packed_if_exists(experiment, context)
    name = display_name(experiment.teacher)
    return packed is not None and has_embeddings(context.root, packed.key, name)


def propose_senses(
    experiment: Experiment, senses: Sequence[Sense], context: PreparationContext
) -> tuple[Sense, ...] | None:
    """Propose the senses that the training images show. Only texts are encoded.

    Args:
        experiment: the experiment whose first teacher and training images are used.
        senses: the sense of every class, without evidence from images.
        context: opens data and teachers.

    Returns:
        The sense of every class. Those that were chosen among several candidates are chosen again.
        None if no embeddings of training images are stored yet.
    """
    images = _stored_train_embeddings(experiment, context)
    if images is None:
        return None
    teacher = context.teacher(experiment.teacher)
    lexicon = open_lexicon()
    proposed = []
    for sense in senses:
        # A sense has scores only if it was chosen among several candidates.
        if sense.scores:
            texts = _encode_senses(sense.name, sense.considered, teacher)
            scores = score_senses_by_images(images, texts, 1 / len(senses))
            proposed.append(add_image_evidence(sense, scores, lexicon))
        else:
            proposed.append(sense)
    return tuple(proposed)


def _stored_train_embeddings(
    experiment: Experiment, context: PreparationContext
) -> NDArray[np.float32] | None:
    packed = open_packed_if_exists(experiment, context)
    if packed is None:
        return None
    fingerprint = context.teacher(experiment.teacher).fingerprint
    store = largest_store(context.root, packed.key, fingerprint)
    if store is None:
        return None
    embeddings = Embeddings(store)
    # The largest store may hold other samples too, for example val and test.
    train = np.intersect1d(embeddings.ids, split(packed, experiment.data).train)
    if not len(train):
        return None
    # Take every n-th id: ids are in the order of the source, which may be sorted by class.
    step = -(-len(train) // _MAX_IMAGES)
    return embeddings.gather(train[::step], 0)


def _encode_senses(
    name: str, candidates: Sequence[Synset], teacher: Teacher
) -> NDArray[np.float32]:
    texts = [f"a photo of a {name.replace('_', ' ')}, {synset.gloss}." for synset in candidates]
    truncated = truncate_texts(texts, teacher.tokenizer)
    embeddings = teacher.encode_texts([truncated.get(text, text) for text in texts])
    array: NDArray[np.float32] = embeddings.numpy()
    return array


def teacher_zero_shot(
    experiment: Experiment, own: AnchorSet, context: PreparationContext
) -> ZeroShotAccuracy | None:
    """Return the first teacher's zero-shot accuracy on val.

    Args:
        experiment: the settings.
        own: the first teacher's anchors of the data's own classes.
        context: opens data and teachers.

    Returns:
        The accuracy, or None if the images are not packed or val is not encoded yet.
    """
    packed = open_packed_if_exists(experiment, context)
    if packed is None:
        return None
    splits = split(packed, experiment.data)
    views = held_out_views(splits)
    basis = embedding_basis(context.teacher(experiment.teacher), packed, views)
    store = covering_store(context.root, basis, views)
    if store is None:
        return None
    return teacher_accuracy(Embeddings(store), own, packed, splits.val)
