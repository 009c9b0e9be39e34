"""The tables of ImageNet's synsets that come with timm, read without importing it (and so without torch)."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from beamclip.config import UserError


@cache
def lemmas() -> dict[str, tuple[str, ...]]:
    """WordNet's lemmas of each synset of ImageNet-1K and -21K, by id."""
    return {
        id: tuple(words.split(", ")) for id, words in _pairs("imagenet_synset_to_lemma.txt").items()
    }


@cache
def definitions() -> dict[str, str]:
    """WordNet's definition of each synset of ImageNet-1K and -21K, by id."""
    return _pairs("imagenet_synset_to_definition.txt")


@cache
def imagenet_1k() -> tuple[str, ...]:
    """Synset ids of ImageNet-1K in label order, [1000]."""
    return tuple(_read("imagenet_synsets.txt"))


@cache
def imagenet_21k() -> tuple[str, ...]:
    """Synset ids of ImageNet-21K (the fall release of 2011) in label order, [21841]."""
    return tuple(_read("imagenet22k_synsets.txt"))


def _pairs(name: str) -> dict[str, str]:
    return {id: text for id, _, text in (line.partition("\t") for line in _read(name))}


def _read(name: str) -> list[str]:
    found = find_spec("timm")
    file = Path(found.origin or "").parent / "data" / "_info" / name if found else Path(name)
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(
            f"timm's table {name} can't be read; install timm again (pip install --force-reinstall timm)"
        ) from None
