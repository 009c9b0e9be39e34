"""Sentences that are longer than a text tower can read, shortened at a word instead of being cut in silence."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tokenizer = Callable[..., Tensor]
"""open_clip's: texts -> token ids [N, C], padded and cut to the tower's context C, or to `context_length`."""


def shortened(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, str]:
    """The texts that do not fit into the tower's context, each with what is left of it: as many whole words as fit."""
    return {text: _shorten(text, tokenizer) for text, fits in zip(texts, fit(texts, tokenizer), strict=True) if not fits}


def fit(texts: Sequence[str], tokenizer: Tokenizer) -> list[bool]:
    """Whether the tower reads each text to its end: with room for one token more, it would read no more tokens."""
    if not texts:
        return []
    pad = int(tokenizer([""])[0, -2])  # the last place may hold a special token
    context = tokenizer(list(texts))
    longer = tokenizer(list(texts), context_length=context.shape[1] + 1)
    same: Tensor = _length(context, pad) == _length(longer, pad)
    return [bool(one) for one in same]


def _length(tokens: Tensor, pad: int) -> Tensor:
    return torch.count_nonzero(tokens != pad, dim=1)


def _shorten(text: str, tokenizer: Tokenizer) -> str:
    words = text.split()
    end = "." if text.endswith(".") else ""

    def first(count: int) -> str:
        return " ".join(words[:count]).rstrip(".,;:(-") + end

    too_long = bisect_left(range(1, len(words) + 1), True, key=lambda count: not fit([first(count)], tokenizer)[0])
    return first(max(1, too_long))
