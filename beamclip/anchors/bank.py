"""The anchor bank: one text embedding a class, made once and stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beamclip.anchors.prompts import prompts_for
from beamclip.stores import Store, build_once
from beamclip.teachers.tower import Teacher

KIND = "anchors"


@dataclass(frozen=True)
class AnchorBank:
    """Anchors of all classes in label order.

    Attributes:
        embeddings: [K, D] fp32, unit length.
        names: the class names.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    key: str

    @classmethod
    def open(cls, store: Store) -> "AnchorBank":
        """From a finished store."""
        return cls(torch.from_numpy(np.load(store.file("anchors.npy"))), tuple(store.manifest["names"]), store.key)


def average_prompts(embeddings: Tensor) -> Tensor:
    """Unit-length prompt embeddings [K, P, D] -> anchors [K, D]: the mean over prompts, normalised again (CLIP's ensembling)."""
    return nn.functional.normalize(embeddings.mean(dim=1), dim=-1)


def build_anchors(teacher: Teacher, names: Sequence[str], prompt_set: str, root: Path) -> Store:
    """Open the store of these names' anchors, running the text tower where it does not exist.

    Word senses enter here: whatever decides which words stand for a class decides `names`, and the key holds every prompt.

    Raises:
        UserError: an unknown prompt set or an empty name.
    """
    parts = bank_parts(teacher, names, prompt_set)
    prompts = parts["prompts"]

    def build(folder: Path) -> dict[str, Any]:
        flat = [prompt for of_class in prompts for prompt in of_class]
        embeddings = teacher.encode_texts(flat).reshape(len(prompts), len(prompts[0]), -1)
        np.save(folder / "anchors.npy", average_prompts(embeddings).numpy())
        return {"names": list(names), "prompt_set": prompt_set, "prompts_per_class": len(prompts[0]), "width": embeddings.shape[2]}

    return build_once(root, KIND, parts, build)


def bank_parts(teacher: Teacher, names: Sequence[str], prompt_set: str) -> dict[str, Any]:
    """All that a store of anchors depends on."""
    return {"teacher": teacher.fingerprint, "prompts": prompts_for(names, prompt_set)}
