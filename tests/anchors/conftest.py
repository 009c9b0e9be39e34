"""A stub text tower that gives every text its own unit vector and records what it encodes."""

import hashlib

import open_clip
import pytest
import torch
import torch.nn.functional as F

from beamclip.config import TowerConfig


class TextTower:
    """A stand-in for a `Teacher` whose text tower alone is used.

    Args:
        weights: each letter stands for another tower.
        context: context length of the tokenizer.
        killed_after: number of batches after which encoding is interrupted.
    """

    def __init__(self, weights="a", context=77, killed_after=None):
        self.name = "stub"
        self.config = TowerConfig(model="stub")
        self.text_fingerprint = {"weights": weights}
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context)
        self.encoded = []
        self.killed_after = killed_after

    def encode_texts(self, texts):
        if self.killed_after == 0:
            raise KeyboardInterrupt
        if self.killed_after is not None:
            self.killed_after -= 1
        self.encoded += texts
        return torch.stack([self.embed(text) for text in texts])

    def embed(self, text):
        """Return the embedding of one text, [8]."""
        digest = hashlib.sha256((self.text_fingerprint["weights"] + text).encode()).digest()
        seed = torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))
        return F.normalize(torch.randn(8, generator=seed), dim=0)


@pytest.fixture
def tower():
    """Function: weights -> a stub text tower, such as `tower("b")`."""
    return TextTower
