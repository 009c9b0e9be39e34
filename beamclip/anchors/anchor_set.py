"""What a bank of anchors is like, for people and for the record of every run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beamclip.anchors.prompts import Prompts, prompts_for
from beamclip.anchors.senses import Sense
from beamclip.anchors.similarity import Likeness, likeness
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

# The anchor bank: one text embedding a class, made once and stored.


KIND = "anchors"


@dataclass(frozen=True)
class AnchorSet:
    """Anchors of all classes in label order.

    Attributes:
        embeddings: [K, D] fp32, unit length.
        names: the class names.
        key: changes with the text tower and with any prompt.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    key: str

    @classmethod
    def open(cls, store: Store) -> "AnchorSet":
        """From a finished store."""
        return cls(
            torch.from_numpy(np.load(store.file("anchors.npy"))),
            tuple(store.manifest["names"]),
            store.key,
        )


@dataclass(frozen=True)
class AnchorSetPlan:
    """What a bank will be made of: known before any text is encoded.

    Attributes:
        prompt_set: what it is called, for people.
    """

    prompt_set: str
    senses: tuple[Sense, ...]
    prompts: Prompts

    @classmethod
    def of(
        cls, senses: Sequence[Sense], prompt_set: str, members: Sequence[PromptSet]
    ) -> "AnchorSetPlan":
        """The plan for these classes.

        Raises:
            UserError: a class's name is empty.
        """
        return cls(prompt_set, tuple(senses), prompts_for(senses, members))

    @property
    def texts(self) -> set[str]:
        """Every sentence once."""
        return {text for of_class in self.prompts for member in of_class for text in member}

    def parts(self, teacher: Teacher) -> dict[str, Any]:
        """All that the store depends on: the text tower and the exact sentences."""
        digest = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()
        return {
            "tower": teacher.text_fingerprint,
            "prompts": digest,
            "names": [sense.name for sense in self.senses],
        }


def ensemble(members: Sequence[Tensor]) -> Tensor:
    """One class's anchor [D] from unit-length prompt embeddings, [P_m, D] a member of an ensemble.

    Each member's prompts are averaged and normalised again (CLIP's ensembling), and so are the members: one with eighty templates
    counts no more than one with a single sentence.
    """
    means = torch.stack([nn.functional.normalize(member.mean(dim=0), dim=0) for member in members])
    return nn.functional.normalize(means.mean(dim=0), dim=0)


def build_anchor_sets(
    teacher: Teacher,
    plans: Sequence[AnchorSetPlan],
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> list[Store]:
    """Open the stores of many banks. The sentences of all that are missing go through the text tower together, each once.

    Args:
        run: who encodes where there are thousands: this process, or a cluster's.
        repair: make again what is damaged in a store that exists.

    Raises:
        UserError: as `build_once`.
    """
    missing = [plan for plan in plans if existing_anchor_set(teacher, plan, root, repair) is None]
    texts = sorted(set().union(*(plan.texts for plan in missing)))
    encoded = encode_texts_once(teacher, texts, root, progress, run, repair) if texts else None
    return [_build(teacher, plan, encoded, root, progress, repair) for plan in plans]


def existing_anchor_set(
    teacher: Teacher, plan: AnchorSetPlan, root: Path, repair: bool = False
) -> Store | None:
    """A bank's store where it exists. With `repair`, one that is damaged counts as missing.

    Raises:
        StoreDamaged: it exists and is damaged.
    """
    path = store_path(root, KIND, plan.parts(teacher))
    try:
        return open_store(path) if path.exists() else None
    except StoreDamaged:
        if not repair:
            raise
        return None


def _build(
    teacher: Teacher,
    plan: AnchorSetPlan,
    encoded: EncodedTexts | None,
    root: Path,
    progress: Progress,
    repair: bool,
) -> Store:
    def build(folder: Path) -> dict[str, Any]:
        assert encoded is not None, "a bank vanished between two looks"
        anchors = torch.stack(
            [ensemble([encoded.of(member) for member in of_class]) for of_class in plan.prompts]
        )
        np.save(folder / "anchors.npy", anchors.numpy())
        write_json(folder / "prompts.json", plan.prompts)
        counts = [sum(map(len, of_class)) for of_class in plan.prompts]
        cut = {
            text: encoded.shortened[text] for text in sorted(plan.texts & encoded.shortened.keys())
        }
        write_json(folder / "shortened.json", cut)
        facts = {
            "prompts": sum(counts),
            "prompts_per_class": [min(counts), max(counts)],
            "shortened": len(cut),
        }
        facts["likeness"] = asdict(likeness(anchors))
        return {
            **facts,
            "names": [s.name for s in plan.senses],
            "prompt_set": plan.prompt_set,
            "width": anchors.shape[1],
        }

    return build_once(root, KIND, plan.parts(teacher), build, progress, repair)


def shortened_prompts(store: Store) -> dict[str, str]:
    """The sentences of a bank that did not fit into the tower's context, each with what was read of it."""
    return dict(read_json(store.file("shortened.json")))


@dataclass(frozen=True)
class AnchorReport:
    """Facts about one bank. JSON values only.

    Attributes:
        prompts: sentences in all.
        prompts_per_class: fewest and most.
        duplicates: pairs of classes with the same anchor.
        near: pairs at or above `threshold`, duplicates included.
        nearest: (class, class, cosine) of the most alike, first the nearest.
        shortened: sentences that did not fit into the text tower's context.
        bare: classes of which nothing but the name is known.
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
        """What is logged with every run: all of it, and so many of the nearest pairs."""
        return vars(self) | {
            "prompts_per_class": list(self.prompts_per_class),
            "nearest": [list(pair) for pair in self.nearest[:pairs]],
        }

    def with_likeness(self, alike: Likeness, senses: Sequence[Sense]) -> "AnchorReport":
        """The same with pairs counted at another threshold."""
        nearest = tuple((senses[i].name, senses[j].name, cosine) for i, j, cosine in alike.nearest)
        return replace(
            self,
            duplicates=alike.duplicates,
            near=alike.near,
            threshold=alike.threshold,
            nearest=nearest,
        )


def report_of(store: Store, prompt_set: str, senses: Sequence[Sense]) -> AnchorReport:
    """The report of a finished bank of these classes. Computes nothing: it was all found out when the bank was made.

    Args:
        prompt_set: what the user calls it; others that make the same sentences share the bank.
    """
    facts, names = store.manifest, [sense.name for sense in senses]
    alike = facts["likeness"]
    return AnchorReport(
        prompt_set=prompt_set,
        anchors=len(names),
        prompts=facts["prompts"],
        prompts_per_class=(facts["prompts_per_class"][0], facts["prompts_per_class"][1]),
        duplicates=alike["duplicates"],
        near=alike["near"],
        threshold=alike["threshold"],
        nearest=tuple((names[i], names[j], cosine) for i, j, cosine in alike["nearest"]),
        shortened=facts["shortened"],
        bare=sum(1 for sense in senses if sense.synset is None and sense.context is None),
        hash=store.key,
    )
