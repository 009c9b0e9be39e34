"""Read timm's tables of ImageNet's synsets, without importing timm (and so without torch)."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from beamclip.config import UserError


@cache
def lemmas() -> dict[str, tuple[str, ...]]:
    """Return WordNet's lemmas of each synset of ImageNet-1K and -21K, by id."""
    table = _read_pairs("imagenet_synset_to_lemma.txt")
    return {id: tuple(words.split(", ")) for id, words in table.items()}


@cache
def definitions() -> dict[str, str]:
    """Return WordNet's definition of each synset of ImageNet-1K and -21K, by id."""
    return _read_pairs("imagenet_synset_to_definition.txt")


@cache
def imagenet_1k() -> tuple[str, ...]:
    """Return the synset ids of ImageNet-1K in label order, [1000]."""
    return tuple(_read_lines("imagenet_synsets.txt"))


@cache
def imagenet_21k() -> tuple[str, ...]:
    """Return the synset ids of ImageNet-21K (fall release of 2011) in label order, [21841]."""
    return tuple(_read_lines("imagenet22k_synsets.txt"))


def _read_pairs(name: str) -> dict[str, str]:
    pairs = {}
    for line in _read_lines(name):
        id, _, text = line.partition("\t")
        pairs[id] = text
    return pairs


def _read_lines(name: str) -> list[str]:
    # importlib.resources would import timm.
    spec = find_spec("timm")
    file = Path(spec.origin or "").parent / "data" / "_info" / name if spec else Path(name)
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(
            f"timm's table {name} can't be read; "
            "install timm again (pip install --force-reinstall timm)"
        ) from None
