"""What the classes of an experiment mean: from names, what the data knows of them, and what the user pinned, to senses."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from beamclip.anchors.lexicon import ClassName, open_lexicon, open_vocabulary, read_class_list
from beamclip.anchors.senses import Sense, ambiguous, choose_senses
from beamclip.config import AnchorsConfig, UserError


def own_classes(names: Sequence[str], keys: Sequence[str | None], class_names: str | None) -> tuple[ClassName, ...]:
    """The data's own classes.

    Args:
        names, keys: as the data's source has them, in label order; keys are WordNet ids where it knows them.
        class_names: `data.class_names`, whose second column says what each name means.

    Raises:
        UserError: two classes share a name and nothing tells them apart.
    """
    classes = [ClassName(name, key) for name, key in zip(names, keys, strict=True)]
    if class_names is not None:
        listed = read_class_list(Path(class_names), "data.class_names")
        classes = [replace(one, synset=one.synset or said.synset, context=said.context) for one, said in zip(classes, listed, strict=False)]
    return tuple(classes)


def senses_of(own: Sequence[ClassName], config: AnchorsConfig, vocabulary: str = "data") -> tuple[Sense, ...]:
    """The senses of a vocabulary's classes; `data` is the data's own.

    Raises:
        UserError: no such vocabulary, a pin that fits nothing, or `anchors.strict_senses` and a class whose sense nobody has said.
    """
    classes = tuple(own) if vocabulary == "data" else _vocabulary(vocabulary)
    known = {one.name for one in (*own, *classes)}
    pins = {name: pin for name, pin in config.senses.items() if name in {one.name for one in classes} or name not in known}
    senses = _chosen(classes, tuple(sorted(pins.items())))
    if config.strict_senses:
        _check_all_said(senses)
    return senses


@cache
def _chosen(classes: tuple[ClassName, ...], pins: tuple[tuple[str, str], ...]) -> tuple[Sense, ...]:
    return choose_senses(classes, open_lexicon(), dict(pins))


@cache
def _vocabulary(name: str) -> tuple[ClassName, ...]:
    return open_vocabulary(name)


def _check_all_said(senses: Sequence[Sense]) -> None:
    unsaid = ambiguous(senses)
    if unsaid:
        first = unsaid[0]
        ids = ", ".join(f"{synset.id} ({synset.gloss[:40]})" for synset in first.considered[:3])
        more = f", and so have {len(unsaid) - 1} other classes" if len(unsaid) > 1 else ""
        raise UserError(
            f"class {first.name} has {len(first.considered)} senses ({ids}){more}; pin one with "
            f"--set 'anchors.senses={{{first.name}: {first.considered[0].id}}}', see them all with `beamclip anchors --explain`"
        )
