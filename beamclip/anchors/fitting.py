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
    pad, last = tokenizer([""])[0, -2:].tolist()
    closed = last != pad  # the last place always holds a special token
    context = tokenizer(list(texts))
    longer = tokenizer(list(texts), context_length=context.shape[1] + 1)
    same: Tensor = _length(context, pad, closed) == _length(longer, pad, closed)
    return [bool(one) for one in same]


def _length(tokens: Tensor, pad: int, closed: bool) -> Tensor:
    """Places up to the last that is not padding, [N]. Others may look like it: CLIP's padding is also its `!` inside a word."""
    read = (tokens[:, :-1] if closed else tokens) != pad
    return (read * torch.arange(1, read.shape[1] + 1)).amax(dim=1)


def _shorten(text: str, tokenizer: Tokenizer) -> str:
    words = text.split()
    end = "." if text.endswith(".") else ""

    def first(count: int) -> str:
        return " ".join(words[:count]).rstrip(" .,;:(-") + end

    too_long = bisect_left(range(1, len(words) + 1), True, key=lambda count: not fit([first(count)], tokenizer)[0])
    return first(max(1, too_long))
