"""What the classes of an experiment mean: from names, what the data knows of them, and what the user pinned, to senses."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import shorten

import yaml

from beamclip.anchors.lexicon import VOCABULARIES, ClassName, open_lexicon, open_vocabulary, read_class_list
from beamclip.anchors.sense import Sense, ambiguous
from beamclip.anchors.senses import choose_senses
from beamclip.config import AnchorsConfig, UserError
from beamclip.data.names import fold


def own_classes(names: Sequence[str], keys: Sequence[str | None], class_names: str | None) -> tuple[ClassName, ...]:
    """The data's own classes.

    Args:
        names, keys: as the data's source has them, in label order; keys are WordNet ids where it knows them.
        class_names: `data.class_names`, whose second column says what each name means, whatever the source says.

    Raises:
        UserError: two classes share a name and nothing tells them apart, or a line has the id that is another class's.
    """
    classes = [ClassName(name, key) for name, key in zip(names, keys, strict=True)]
    if class_names is not None:
        listed = read_class_list(Path(class_names), "data.class_names")
        _check_ids(listed, keys, class_names)
        classes = [said if said.synset or said.context else one for one, said in zip(classes, listed, strict=False)]
    return tuple(classes)


def _check_ids(listed: Sequence[ClassName], keys: Sequence[str | None], class_names: str) -> None:
    """A list in another order than the folders' would silently give each class another's name and sense."""
    places = {key: place for place, key in enumerate(keys) if key is not None}
    for place, one in enumerate(listed):
        owner = places.get(one.synset or "", place)
        if owner != place:
            raise UserError(
                f"data.class_names {class_names} has {one.synset} in line {place + 1}, but its folder is number {owner + 1}; "
                "write the lines in label order"
            )


def senses_of(own: Sequence[ClassName], config: AnchorsConfig, vocabulary: str = "data") -> tuple[Sense, ...]:
    """The senses of a vocabulary's classes; `data` is the data's own.

    Raises:
        UserError: no such vocabulary, a pin that fits nothing, or `anchors.strict_senses` and a class whose sense nobody has said.
    """
    classes = _classes(own, vocabulary)
    senses = _chosen(classes, tuple(sorted(_pins_for(vocabulary, own, config).items())))
    if config.strict_senses:
        _check_all_said(senses)
    return senses


def _classes(own: Sequence[ClassName], vocabulary: str) -> tuple[ClassName, ...]:
    if vocabulary == "data":
        return tuple(own)
    return _built_in(vocabulary) if vocabulary in VOCABULARIES else open_vocabulary(vocabulary)  # a file may have changed since


def _pins_for(vocabulary: str, own: Sequence[ClassName], config: AnchorsConfig) -> dict[str, str]:
    """The pins for classes of this vocabulary, and those for no class at all, about which choosing senses will complain.

    One for a class of the data leaves out a vocabulary that has several of that name: it can't say which.
    """
    if not config.senses:
        return {}
    of_data, of_words = (Counter(fold(one.name) for one in _classes(own, words)) for words in ("data", config.vocabulary))

    def concerned(name: str) -> bool:
        return name in of_data or name not in of_words if vocabulary == "data" else of_words[name] == 1 or name not in of_data

    return {name: pin for name, pin in config.senses.items() if concerned(fold(name))}


@cache
def _chosen(classes: tuple[ClassName, ...], pins: tuple[tuple[str, str], ...]) -> tuple[Sense, ...]:
    return choose_senses(classes, open_lexicon(), dict(pins))


@cache
def _built_in(vocabulary: str) -> tuple[ClassName, ...]:
    return open_vocabulary(vocabulary)


def _check_all_said(senses: Sequence[Sense]) -> None:
    unsaid = ambiguous(senses)
    if unsaid:
        first, others = unsaid[0], len(unsaid) - 1
        likely = [one for _, one in sorted(zip(first.scores, first.considered, strict=True), key=lambda pair: -pair[0])]
        ids = ", ".join(f"{synset.id} ({shorten(synset.gloss, 50, placeholder=' …')})" for synset in likely[:3])
        more = f"; {others} more {'class is' if others == 1 else 'classes are'} ambiguous too" if others else ""
        raise UserError(
            f"class {first.name} has {len(likely)} senses ({ids}){more}; pin one with "
            f"{pin_option({first.name: likely[0].id})}, see them all with `beamclip anchors --explain`"
        )


def pin_option(pins: Mapping[str, str]) -> str:
    """What to type to pin these senses, whatever characters the names have."""
    flow = yaml.safe_dump(dict(pins), default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")).strip()
    return f"--set {shlex.quote(f'anchors.senses={flow}')}"
