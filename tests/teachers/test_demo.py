"""The demo's teacher: its captions, its loss, and its training."""

import math
import stat

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from beamclip.config import DataConfig
from beamclip.data import DIGIT_NAMES, DemoSource
from beamclip.teachers import demo
from beamclip.teachers.demo import (
    Captions,
    contrastive_loss,
    small_vocabulary,
    train_demo_teacher,
)

DIGITS = ("zero", "one", "two")
COLORS = ("red", "blue")
PROMPT_SETS = {
    "plain": ["a photo of a {}.".format],
    "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
}


@pytest.fixture(scope="module")
def captions():
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    return Captions.of(["a photo of a {}.".format, "{}".format], DIGITS, COLORS, tokenizer)


def text_of(captions, tokens):
    words = open_clip.decode(captions.vocabulary[tokens])
    return words.split("<start_of_text>")[1].split("<end_of_text>")[0].strip()


def test_captions_are_indexed_by_template_digit_and_color(captions):
    assert captions.tokens.shape == (2, 3, 3, 12)
    assert text_of(captions, captions.tokens[0, 1, 0]) == "a photo of a one ."
    assert text_of(captions, captions.tokens[1, 2, 2]) == "blue two"


def test_drawn_captions_name_their_digits_and_colors(captions):
    tokens, digits, colors = captions.draw(20, 0.5, torch.Generator().manual_seed(0))
    assert digits.bincount().tolist() == [20, 20, 20] and set(colors.tolist()) == {-1, 0, 1}
    for row, digit, color in zip(tokens, digits, colors, strict=True):
        name = DIGITS[digit] if color == -1 else f"{COLORS[color]} {DIGITS[digit]}"
        assert name in text_of(captions, row)
    assert (captions.draw(20, 0.0, torch.Generator()).colors == -1).all()


def test_a_small_vocabulary_encodes_as_the_full_one_and_is_written_back(captions):
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 32}
    model = open_clip.CLIP(8, vision, text).eval()
    tokens = captions.tokens[:, 0, 0]
    with torch.no_grad():
        before = model.encode_text(captions.vocabulary[tokens])
        unused_token = model.token_embedding.weight[7].clone()
        with small_vocabulary(model, captions.vocabulary):
            assert torch.allclose(model.encode_text(tokens), before, atol=1e-6)
            # Layer norms would remove a change by the same number everywhere.
            model.token_embedding.weight += torch.arange(16.0)
    assert torch.equal(model.token_embedding.weight[7], unused_token)
    assert not torch.allclose(model.encode_text(captions.vocabulary[tokens]), before)


def slow_loss(logits, matches):
    """Compute the loss from its equation: from each image to the captions, then back."""
    total = 0.0
    for scores, matched in (
        (logits.tolist(), matches.tolist()),
        (logits.T.tolist(), matches.T.tolist()),
    ):
        losses = []
        for row, row_matches in zip(scores, matched, strict=True):
            if any(row_matches):
                log_sum = math.log(sum(math.exp(score) for score in row))
                pairs = zip(row, row_matches, strict=True)
                terms = [log_sum - score for score, is_match in pairs if is_match]
                losses.append(sum(terms) / len(terms))
        total += sum(losses) / len(losses)
    return total / 2


def test_the_loss_equals_the_equation_written_out():
    torch.manual_seed(0)
    logits = torch.randn(6, 5)
    matches = torch.rand(6, 5) < 0.4
    matches[2] = False
    expected = slow_loss(logits, matches)
    assert contrastive_loss(logits, matches).item() == pytest.approx(expected, rel=1e-5)


def test_with_one_match_per_row_it_is_clips_loss():
    image = F.normalize(torch.randn(4, 8), dim=-1)
    text = F.normalize(torch.randn(4, 8), dim=-1)
    expected = open_clip.ClipLoss()(image, text, torch.tensor(10.0))
    loss = contrastive_loss(10 * image @ text.T, torch.eye(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def load(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", require_pretrained=True
    )
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.slow
def test_a_short_training_can_be_loaded_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STEPS", 4)
    monkeypatch.setattr(demo, "SCENES", 512)
    state = torch.random.get_rng_state()
    steps = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train_demo_teacher(tmp_path / name, lambda _, done, total: steps.append((done, total)))
    assert torch.equal(torch.random.get_rng_state(), state) and steps[-1] == (4, 4)
    assert stat.S_IMODE((tmp_path / "a/open_clip_model.safetensors").stat().st_mode) == 0o644
    first, second = (load(tmp_path / name)[0].state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_it_recognizes_digits_of_writers_it_has_never_seen(tmp_path):
    train_demo_teacher(tmp_path)
    model, preprocess, tokenizer = load(tmp_path)
    items = list(DemoSource(DataConfig(source="demo")).items("test"))
    labels = torch.tensor([item.label for item in items])
    pixels = [preprocess(Image.fromarray(np.asarray(item.image))) for item in items]
    with torch.no_grad():
        images = model.encode_image(torch.stack(pixels))
        for name, templates in PROMPT_SETS.items():
            anchors = []
            for digit in DIGIT_NAMES:
                tokens = tokenizer([template(digit) for template in templates])
                anchors.append(model.encode_text(tokens, normalize=True).mean(0))
            cosines = images @ F.normalize(torch.stack(anchors), dim=-1).T
            accuracy = (cosines.argmax(1) == labels).float().mean()
            assert accuracy > 0.84, name
