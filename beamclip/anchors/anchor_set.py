"""Build, store and describe anchor sets: one text embedding per class.

`AnchorSetPlan` lists the sentences of an anchor set before any text is encoded. `build_anchor_sets`
builds the stores, and `AnchorSet` reads one. `AnchorReport` describes an anchor set; it is printed
and logged with every run.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beamclip.anchors.prompts import Prompts, prompts_for
from beamclip.anchors.senses import Sense
from beamclip.anchors.similarity import AnchorSimilarity, measure_similarity
from beamclip.anchors.text_embeddings import EncodedTexts, encode_texts_once
from beamclip.config import PromptSet
from beamclip.stores import (
    Progress,
    Runner,
    Store,
    StoreDamaged,
    build_once,
    in_process,
    open_store,
    read_json,
    silent,
    store_path,
    write_json,
)
from beamclip.teachers import Teacher

KIND = "anchors"


@dataclass(frozen=True)
class AnchorSet:
    """The anchors of all classes in label order.

    Attributes:
        embeddings: [K, D] fp32, unit length.
        names: the K class names.
        key: the store's key, which changes with the text tower and with any prompt.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    key: str

    @classmethod
    def open(cls, store: Store) -> "AnchorSet":
        """Read a finished store."""
        return cls(
            embeddings=torch.from_numpy(np.load(store.file("anchors.npy"))),
            names=tuple(store.manifest["names"]),
            key=store.key,
        )


@dataclass(frozen=True)
class AnchorSetPlan:
    """The classes and sentences an anchor set is made of.

    Attributes:
        prompt_set: the user's name of the prompt set.
        senses: the senses of the classes, in label order.
        prompts: the sentences of each class and each member of the prompt set.
    """

    prompt_set: str
    senses: tuple[Sense, ...]
    prompts: Prompts

    @classmethod
    def of(
        cls, senses: Sequence[Sense], prompt_set: str, members: Sequence[PromptSet]
    ) -> "AnchorSetPlan":
        """Plan the anchor set of these classes.

        Args:
            senses: the senses of the classes, in label order.
            prompt_set: the user's name of the prompt set.
            members: its definition: one prompt set, or the members of an ensemble.

        Raises:
            UserError: a class has an empty name.
        """
        return cls(prompt_set, tuple(senses), prompts_for(senses, members))

    @property
    def texts(self) -> set[str]:
        """All sentences, each once."""
        texts: set[str] = set()
        for prompts_of_class in self.prompts:
            for prompts_of_member in prompts_of_class:
                texts.update(prompts_of_member)
        return texts

    def parts(self, teacher: Teacher) -> dict[str, Any]:
        """Return the parts of the store's key: text tower, exact sentences and class names.

        The prompt set's name is not among them, so equal sentences share a store.
        """
        digest = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()
        return {
            "tower": teacher.text_fingerprint,
            "prompts": digest,
            "names": [sense.name for sense in self.senses],
        }


def ensemble(members: Sequence[Tensor]) -> Tensor:
    """Combine the prompt embeddings of one class into its anchor, [D].

    The prompt embeddings of each member are averaged and normalized, as in CLIP. Then the results
    of all members are averaged and normalized. So a member with eighty templates counts no more
    than one with a single sentence.

    Args:
        members: for each member of the prompt set, the unit-length embeddings of its P prompts,
            [P, D].
    """
    means = [nn.functional.normalize(member.mean(dim=0), dim=0) for member in members]
    return nn.functional.normalize(torch.stack(means).mean(dim=0), dim=0)


def build_anchor_sets(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    teacher: Teacher,
    plans: Sequence[AnchorSetPlan],
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> list[Store]:
    """Open the stores of several anchor sets, building those that are missing.

    The sentences of all missing sets go through the text tower in one pass, each sentence once.

    Args:
        teacher: the teacher whose text tower encodes.
        plans: the anchor sets, in the order of the result.
        root: folder of all stores.
        progress: called with the progress of the pass.
        run: runs passes over thousands of sentences, in this process or on a cluster.
        repair: rebuild what is damaged in an existing store.

    Raises:
        UserError: see `build_once`.
    """
    missing_texts: set[str] = set()
    for plan in plans:
        if find_anchor_set(teacher, plan, root, repair) is None:
            missing_texts |= plan.texts
    encoded = None
    if missing_texts:
        encoded = encode_texts_once(teacher, sorted(missing_texts), root, progress, run, repair)

    stores = []
    for plan in plans:
        build = partial(_write_anchor_set, plan=plan, encoded=encoded)
        stores.append(build_once(root, KIND, plan.parts(teacher), build, progress, repair))
    return stores


def find_anchor_set(
    teacher: Teacher, plan: AnchorSetPlan, root: Path, repair: bool = False
) -> Store | None:
    """Return an anchor set's store, or None if it does not exist.

    Args:
        teacher: the teacher whose text tower encodes.
        plan: the anchor set.
        root: folder of all stores.
        repair: return None for a damaged store instead of raising.

    Raises:
        StoreDamaged: it exists and is damaged, and `repair` is not set.
    """
    path = store_path(root, KIND, plan.parts(teacher))
    if not path.exists():
        return None
    try:
        return open_store(path)
    except StoreDamaged:
        if not repair:
            raise
        return None


def truncated_prompts(store: Store) -> dict[str, str]:
    """Return the part that the text tower read of each sentence that was too long for it."""
    return dict(read_json(store.file("shortened.json")))


def _write_anchor_set(
    folder: Path, plan: AnchorSetPlan, encoded: EncodedTexts | None
) -> dict[str, Any]:
    """Write an anchor set's files and return further entries of its manifest."""
    # If no store was missing, nothing was encoded, and this is called only if another process has
    # deleted a store since.
    assert encoded is not None, "an anchor set that existed a moment ago is gone"
    rows = []
    prompts_per_class = []
    for prompts_of_class in plan.prompts:
        rows.append(ensemble([encoded.of(member) for member in prompts_of_class]))
        prompts_per_class.append(sum(len(member) for member in prompts_of_class))
    anchors = torch.stack(rows)
    truncated_texts = sorted(plan.texts & encoded.truncated.keys())
    truncated = {text: encoded.truncated[text] for text in truncated_texts}
    np.save(folder / "anchors.npy", anchors.numpy())
    write_json(folder / "prompts.json", plan.prompts)
    write_json(folder / "shortened.json", truncated)
    return {
        "prompts": sum(prompts_per_class),
        "prompts_per_class": [min(prompts_per_class), max(prompts_per_class)],
        "shortened": len(truncated),
        "likeness": asdict(measure_similarity(anchors)),
        "names": [sense.name for sense in plan.senses],
        "prompt_set": plan.prompt_set,
        "width": anchors.shape[1],
    }


@dataclass(frozen=True)
class AnchorReport:
    """Facts about one anchor set. JSON values only, since they are logged with every run.

    Attributes:
        prompt_set: the user's name of the prompt set.
        anchors: number of classes.
        prompts: number of sentences of all classes together.
        prompts_per_class: smallest and largest number of sentences of a class.
        duplicates: pairs of classes with the same anchor.
        near: pairs of classes with a cosine of at least `threshold`, duplicates included.
        threshold: the cosine from which pairs count as near.
        nearest: (class, class, cosine) of the most similar pairs, most similar first.
        shortened: sentences that did not fit into the text tower's context.
        bare: number of classes with neither a WordNet sense nor a context, only a name.
        hash: the store's key.
    """

    prompt_set: str
    anchors: int
    prompts: int
    prompts_per_class: tuple[int, int]
    duplicates: int
    near: int
    threshold: float
    nearest: tuple[tuple[str, str, float], ...]
    shortened: int
    bare: int
    hash: str

    def summary(self, pairs: int = 10) -> dict[str, Any]:
        """Return all fields, with at most `pairs` nearest pairs, to log them with every run."""
        return vars(self) | {
            "prompts_per_class": list(self.prompts_per_class),
            "nearest": [list(pair) for pair in self.nearest[:pairs]],
        }

    def with_similarity(
        self, similarity: AnchorSimilarity, senses: Sequence[Sense]
    ) -> "AnchorReport":
        """Return the same report with pairs counted at another threshold.

        Args:
            similarity: measured at that threshold.
            senses: the senses of the classes, in label order.
        """
        nearest = []
        for row, column, cosine in similarity.nearest:
            nearest.append((senses[row].name, senses[column].name, cosine))
        return replace(
            self,
            duplicates=similarity.duplicates,
            near=similarity.near,
            threshold=similarity.threshold,
            nearest=tuple(nearest),
        )


def anchor_report(store: Store, prompt_set: str, senses: Sequence[Sense]) -> AnchorReport:
    """Read the report of a finished anchor set from its manifest, without computing anything.

    Args:
        store: the anchor set's store.
        prompt_set: the user's name of the prompt set. The one in the manifest may differ, since
            prompt sets that make the same sentences share a store.
        senses: the senses of the classes, in label order.
    """
    manifest = store.manifest
    names = [sense.name for sense in senses]
    similarity = manifest["likeness"]
    fewest, most = manifest["prompts_per_class"]
    nearest = []
    for row, column, cosine in similarity["nearest"]:
        nearest.append((names[row], names[column], cosine))
    bare = [sense for sense in senses if sense.synset is None and sense.context is None]
    return AnchorReport(
        prompt_set=prompt_set,
        anchors=len(names),
        prompts=manifest["prompts"],
        prompts_per_class=(fewest, most),
        duplicates=similarity["duplicates"],
        near=similarity["near"],
        threshold=similarity["threshold"],
        nearest=tuple(nearest),
        shortened=manifest["shortened"],
        bare=len(bare),
        hash=store.key,
    )
