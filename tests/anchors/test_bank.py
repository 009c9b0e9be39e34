import hashlib

import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import AnchorBank, average_prompts, build_anchors, prompts_for
from beamclip.config import UserError

NAMES = ("moss", "sea_ice", "rose")


class StubTeacher:
    """A text tower that says a unit vector of its own to every text, and remembers what it was asked."""

    def __init__(self, weights="a"):
        self.fingerprint = {"weights": weights}
        self.asked = []

    def encode_texts(self, texts):
        self.asked += texts
        seeds = [int.from_bytes(hashlib.sha256((self.fingerprint["weights"] + text).encode()).digest()[:6], "little") for text in texts]
        return F.normalize(torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]), dim=-1)


def test_an_anchor_is_the_normalised_mean_of_its_prompts(tmp_path):
    bank = AnchorBank.open(build_anchors(StubTeacher(), NAMES, "openai_7", tmp_path))
    assert bank.names == NAMES
    assert bank.embeddings.dtype == torch.float32
    for anchor, prompts in zip(bank.embeddings, prompts_for(NAMES, "openai_7"), strict=True):
        mean = sum(StubTeacher().encode_texts([prompt])[0] for prompt in prompts) / 7
        torch.testing.assert_close(anchor, mean / mean.norm())


def test_averaging_weighs_prompts_alike_and_ends_at_unit_length():
    embeddings = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 1]]])
    half = 0.5**0.5
    torch.testing.assert_close(average_prompts(embeddings), torch.tensor([[half, half, 0], [0, 0, 1]]))


def test_anchors_are_made_once_and_a_second_call_asks_no_text_tower(tmp_path):
    first, second = StubTeacher(), StubTeacher()
    made = build_anchors(first, NAMES, "openai_7", tmp_path)
    found = build_anchors(second, NAMES, "openai_7", tmp_path)
    assert len(first.asked) == 21
    assert second.asked == []
    assert torch.equal(AnchorBank.open(made).embeddings, AnchorBank.open(found).embeddings)
    assert AnchorBank.open(found).key == made.key


def test_the_key_changes_with_prompts_and_with_the_teacher(tmp_path):
    stores = [
        build_anchors(StubTeacher(), NAMES, "openai_7", tmp_path),
        build_anchors(StubTeacher(), NAMES, "plain", tmp_path),
        build_anchors(StubTeacher(), (*NAMES[:2], "tulip"), "openai_7", tmp_path),
        build_anchors(StubTeacher(), NAMES[::-1], "openai_7", tmp_path),
        build_anchors(StubTeacher("b"), NAMES, "openai_7", tmp_path),
    ]
    assert len({store.key for store in stores}) == len(stores)


@pytest.mark.parametrize(("names", "prompt_set", "sentence"), [(("moss", ""), "plain", "empty name"), (NAMES, "openai", "does not exist")])
def test_bad_input_is_a_sentence_and_leaves_nothing(tmp_path, names, prompt_set, sentence):
    with pytest.raises(UserError, match=sentence):
        build_anchors(StubTeacher(), names, prompt_set, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_real_text_tower_s_anchors_are_its_own_zero_shot_classifier(teacher, tmp_path):
    bank = AnchorBank.open(build_anchors(teacher, NAMES, "openai_7", tmp_path))
    with torch.inference_mode():
        tokens = teacher.tokenizer(prompts_for(["rose"], "openai_7")[0])
        mean = F.normalize(teacher.model.encode_text(tokens), dim=-1).mean(0)
    torch.testing.assert_close(bank.embeddings[2], F.normalize(mean, dim=-1))
