"""A text tower that says a unit vector of its own to every text, and remembers what it was asked."""

import hashlib

import open_clip
import pytest
import torch
import torch.nn.functional as F

from beamclip.config import TowerConfig


class TextTower:
    """Stands for a `Teacher` where only its text tower is asked.

    Args:
        weights: another letter is another tower.
        patience: batches after which it is killed.
    """

    def __init__(self, weights="a", context=77, patience=None):
        self.name, self.config = "stub", TowerConfig(model="stub")
        self.text_fingerprint = {"weights": weights}
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context)
        self.asked, self.patience = [], patience

    def encode_texts(self, texts):
        if self.patience == 0:
            raise KeyboardInterrupt
        self.patience = None if self.patience is None else self.patience - 1
        self.asked += texts
        return torch.stack([self.said(text) for text in texts])

    def said(self, text):
        """Its embedding of one text, [8]."""
        digest = hashlib.sha256((self.text_fingerprint["weights"] + text).encode()).digest()
        seed = torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))
        return F.normalize(torch.randn(8, generator=seed), dim=0)


@pytest.fixture
def tower():
    """`tower("b")`: a text tower of these weights."""
    return TextTower
