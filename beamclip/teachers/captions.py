"""Captions of the demo's scenes, true or false of each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Template = Callable[[str], str]


@dataclass(frozen=True)
class Captions:
    """Every template with every digit, without and with each colour.

    tokens: [T, K, 1 + C, L], ids into `vocabulary`; the first caption of the C + 1 names no colour.
    vocabulary: the tokenizer's ids that occur, sorted, [V].
    """

    tokens: Tensor
    vocabulary: Tensor

    @classmethod
    def of(cls, templates: Sequence[Template], digits: Sequence[str], colours: Sequence[str], tokenizer: Any) -> "Captions":
        """Tokenise "a photo of a three.", "a photo of a red three." and so on."""
        named = [f"{colour} {digit}".strip() for digit in digits for colour in ("", *colours)]
        tokens: Tensor = tokenizer([template(name) for template in templates for name in named])
        vocabulary, compact = torch.unique(tokens, return_inverse=True)
        return cls(compact.view(len(templates), len(digits), 1 + len(colours), -1), vocabulary)

    def draw(self, each: int, coloured: float, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`each` captions for each of K digits; `coloured` is the chance that one names a colour.

        Returns:
            tokens [K * each, L], digits [K * each], colours [K * each], -1 where a caption names none.
        """
        templates, kinds, choices, _ = self.tokens.shape
        digits = torch.arange(kinds).repeat_interleave(each)
        template = torch.randint(templates, digits.shape, generator=random)
        colour = torch.randint(1, choices, digits.shape, generator=random)
        colour[torch.rand(digits.shape, generator=random) >= coloured] = 0
        return self.tokens[template, digits, colour], digits, colour - 1


@contextmanager
def small_vocabulary(model: Any, vocabulary: Tensor) -> Iterator[None]:
    """Inside, the text tower knows only these tokens, by their place among them.

    A step over the embeddings of all 49 408 tokens would cost more than the images do, and the others would only decay. The
    order is kept, which matters: open_clip reads the text at its largest id, the end of text.
    """
    whole = model.token_embedding
    model.token_embedding = nn.Embedding(len(vocabulary), whole.embedding_dim, _weight=whole.weight[vocabulary].detach().clone())
    try:
        yield
    finally:
        with torch.no_grad():
            whole.weight[vocabulary] = model.token_embedding.weight
        model.token_embedding = whole
