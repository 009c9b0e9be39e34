"""What a bank of anchors is like, for people and for the record of every run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from beamclip.anchors.likeness import Likeness
from beamclip.anchors.sense import Sense
from beamclip.stores import Store


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
        return vars(self) | {"prompts_per_class": list(self.prompts_per_class), "nearest": [list(pair) for pair in self.nearest[:pairs]]}

    def with_likeness(self, alike: Likeness, senses: Sequence[Sense]) -> "AnchorReport":
        """The same with pairs counted at another threshold."""
        nearest = tuple((senses[i].name, senses[j].name, cosine) for i, j, cosine in alike.nearest)
        return replace(self, duplicates=alike.duplicates, near=alike.near, threshold=alike.threshold, nearest=nearest)


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
