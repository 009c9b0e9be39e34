import re

import numpy as np
import open_clip
import pytest
import torch

from beamclip.anchors.truncation import fits_context, truncate_texts

WORDS = (
    "a",
    "crane",
    "wading",
    "bird",
    "dinner-jacket",
    "N'Djamena",
    "supercalifragilistic",
    "(heavy)",
    "lifts,",
    "of",
    "flamingos;",
    "zoo",
)


class LikeSigLIP:
    """Mimics open_clip's `HFTokenizer` for SigLIP.

    It has lower case, no punctuation, and one id that both ends and pads.
    """

    end = pad = 1

    def __init__(self, context_length):
        self.context_length = context_length

    def pieces(self, text):
        """Ids of pieces of up to four letters. None is the id of a special token."""
        return [
            200 + sum(map(ord, piece))
            for piece in re.findall(r"[a-z]{1,4}", re.sub(r"[^\w\s]", "", text.lower()))
        ]

    def __call__(self, texts, context_length=None):
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        rows = [[*self.pieces(text)[: length - 1], self.end] for text in texts]
        return torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])


class LikeBert(LikeSigLIP):
    """Has separate tokens for the beginning, the end and padding."""

    pad = 0

    def __call__(self, texts, context_length=None):
        length = context_length or self.context_length
        rows = [[2, *self.pieces(text)[: length - 2], 3] for text in texts]
        return torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])


class LikeClips(LikeBert):
    """Mimics open_clip's mode `clips`: the last position always holds a class token."""

    def __call__(self, texts, context_length=None):
        length = context_length or self.context_length
        rows = [[2, *self.pieces(text)[: length - 3], 3] for text in texts]
        return torch.tensor([row + [self.pad] * (length - 1 - len(row)) + [101] for row in rows])


def clip(context_length):
    return open_clip.SimpleTokenizer(context_length=context_length)


TOKENIZERS = {"clip": clip, "siglip": LikeSigLIP, "bert": LikeBert, "clips": LikeClips}
SPECIAL = {"clip": 2, "siglip": 1, "bert": 2, "clips": 3}


@pytest.fixture(
    params=[(kind, context) for kind in TOKENIZERS for context in (16, 77)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def tower(request):
    """A tokenizer, and how many tokens of text it reads."""
    kind, context = request.param
    return TOKENIZERS[kind](context), context - SPECIAL[kind]


def tokens(text, tokenizer):
    """Number of tokens in a text, which may be more than the tower reads."""
    return len(
        tokenizer.encode(text)
        if isinstance(tokenizer, open_clip.SimpleTokenizer)
        else tokenizer.pieces(text)
    )


def of_length(count, tokenizer, end=""):
    """A text of exactly `count` tokens: words of one token each."""
    text = " ".join(["bird"] * (count - tokens(end, tokenizer))) + end
    assert tokens(text, tokenizer) == count
    return text


@pytest.mark.parametrize("end", ["", "."])
def test_a_text_that_fits_exactly_is_kept_and_one_token_more_is_truncated_at_a_word(tower, end):
    tokenizer, room = tower
    exact, longer = of_length(room, tokenizer, end), of_length(room + 1, tokenizer, end)
    assert fits_context([exact, longer, "crane", ""], tokenizer) == [True, False, True, True]
    assert truncate_texts([exact, "crane", longer], tokenizer) == {longer: exact}


@pytest.mark.parametrize("more", [1, 2, 5, 40, 300])
def test_the_full_stop_stays_at_any_length(tower, more):
    tokenizer, room = tower
    text = of_length(room + more, tokenizer, ".")
    assert truncate_texts([text], tokenizer) == {text: of_length(room, tokenizer, ".")}


def test_a_word_of_several_tokens_is_dropped_whole(tower):
    tokenizer, room = tower
    long = "antidisestablishmentarianism"
    assert tokens(long, tokenizer) > 3
    text = f"{of_length(room - 2, tokenizer)} {long} bird"
    assert truncate_texts([text], tokenizer) == {text: of_length(room - 2, tokenizer)}


@pytest.mark.parametrize("mark", [",", ";", ":", " -", " (", "...", ".,"])
def test_no_dangling_mark_is_left_before_the_full_stop(tower, mark):
    tokenizer, room = tower
    birds = of_length(room - 3, tokenizer)
    text = f"{birds}{mark} antidisestablishmentarianism antidisestablishmentarianism."
    assert truncate_texts([text], tokenizer) == {text: f"{birds}."}


def test_no_texts_need_no_tokenizer(tower):
    assert fits_context([], None) == [] and truncate_texts([], None) == {}


def test_clip_s_padding_is_also_a_letter_of_its_alphabet():
    """`!` before another sign has the padding's id.

    Counting the other tokens would miss that it is cut off.
    """
    tokenizer = clip(16)
    assert tokenizer.encode("!+")[0] == tokenizer([""])[0, -1] == 0
    exact = of_length(14, tokenizer)
    assert truncate_texts([exact, f"{exact} !+"], tokenizer) == {f"{exact} !+": exact}


@pytest.mark.parametrize("seed", range(8))
def test_a_truncated_text_always_fits_and_the_next_word_would_not(tower, seed):
    tokenizer, room = tower
    random = np.random.default_rng(seed)
    texts = [
        "a photo of a " + " ".join(random.choice(WORDS, count)) + "."
        for count in random.integers(1, 2 * room, 6)
    ]
    truncated = truncate_texts(texts, tokenizer)
    assert set(truncated) == {text for text in texts if tokens(text, tokenizer) > room}
    for text, short in truncated.items():
        words, kept = text.split(), short.split()
        assert tokens(short, tokenizer) <= room and short.endswith(".")
        assert [word.rstrip(".,;:(-") for word in kept] == [
            word.rstrip(".,;:(-") for word in words[: len(kept)]
        ]  # never inside a word
        longer = " ".join(words[: len(kept) + 1]).rstrip(" .,;:(-") + "."
        assert tokens(longer, tokenizer) > room
