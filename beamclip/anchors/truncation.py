"""Shorten prompts that are longer than a text tower's context, at a word boundary.

A tokenizer cuts long texts silently and in the middle of a word. Shortening them first keeps whole
words and the final full stop, and lets reports list what the tower really read.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tokenizer = Callable[..., Tensor]
"""An open_clip tokenizer: texts -> token ids [N, C].

Rows are padded and cut to the tower's context length C, or to `context_length` if given.
"""

# Punctuation that makes no sense at the end of a shortened text.
_DANGLING_PUNCTUATION = " .,;:(-"


def truncate_texts(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, str]:
    """Shorten the texts that do not fit into the tower's context.

    Args:
        texts: sentences.
        tokenizer: the tower's tokenizer.

    Returns:
        For each text that does not fit, as many of its first words as fit. Texts that fit are left
        out.
    """
    truncated = {}
    for text, fits in zip(texts, fits_context(texts, tokenizer), strict=True):
        if not fits:
            truncated[text] = _truncate(text, tokenizer)
    return truncated


def fits_context(texts: Sequence[str], tokenizer: Tokenizer) -> list[bool]:
    """Return for each text whether the tower reads it to its end.

    Tokenizers don't say whether they cut a text. So each text is tokenized again with one more
    token of context: it fits if the tokenizer does not read more of it then.
    """
    if not texts:
        return []
    padding, final = tokenizer([""])[0, -2:].tolist()
    # Some tokenizers put a special token into the last position of every text.
    has_final_token = final != padding
    tokens = tokenizer(list(texts))
    longer_tokens = tokenizer(list(texts), context_length=tokens.shape[1] + 1)
    lengths = _token_counts(tokens, padding, has_final_token)
    longer_lengths = _token_counts(longer_tokens, padding, has_final_token)
    return [bool(same) for same in lengths == longer_lengths]


def _token_counts(tokens: Tensor, padding: int, has_final_token: bool) -> Tensor:
    """Return the position of each text's last token that is not padding, counted from 1, [N].

    Counting the tokens that are not padding would be wrong: CLIP's padding id is also its `!`
    inside a word.
    """
    body = tokens[:, :-1] if has_final_token else tokens
    positions = torch.arange(1, body.shape[1] + 1)
    return ((body != padding) * positions).amax(dim=1)


def _truncate(text: str, tokenizer: Tokenizer) -> str:
    """Return the longest run of the first words of `text` that fits, with its final full stop."""
    words = text.split()
    full_stop = "." if text.endswith(".") else ""

    def first_words(count: int) -> str:
        return " ".join(words[:count]).rstrip(_DANGLING_PUNCTUATION) + full_stop

    def is_too_long(count: int) -> bool:
        return not fits_context([first_words(count)], tokenizer)[0]

    # A binary search, since each check tokenizes the text twice.
    # The index of the first count that is too long is the last count that fits, since counts start
    # at 1.
    longest = bisect_left(range(1, len(words) + 1), True, key=is_too_long)
    # Even if the first word alone is too long, an empty text would be worse.
    return first_words(max(1, longest))
