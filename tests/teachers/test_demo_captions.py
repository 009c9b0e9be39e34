import open_clip
import pytest
import torch

from beamclip.teachers.demo import Captions, small_vocabulary

DIGITS, COLOURS = ("zero", "one", "two"), ("red", "blue")


@pytest.fixture(scope="module")
def captions():
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    return Captions.of(["a photo of a {}.".format, "{}".format], DIGITS, COLOURS, tokenizer)


def text_of(captions, tokens):
    words = open_clip.decode(captions.vocabulary[tokens])
    return words.split("<start_of_text>")[1].split("<end_of_text>")[0].strip()


def test_captions_say_what_they_are_filed_under(captions):
    assert captions.tokens.shape == (2, 3, 3, 12)
    assert text_of(captions, captions.tokens[0, 1, 0]) == "a photo of a one ."
    assert text_of(captions, captions.tokens[1, 2, 2]) == "blue two"


def test_drawn_captions_come_with_their_facts(captions):
    tokens, digits, colours = captions.draw(20, 0.5, torch.Generator().manual_seed(0))
    assert digits.bincount().tolist() == [20, 20, 20] and set(colours.tolist()) == {-1, 0, 1}
    for row, digit, colour in zip(tokens, digits, colours, strict=True):
        name = DIGITS[digit] if colour == -1 else f"{COLOURS[colour]} {DIGITS[digit]}"
        assert name in text_of(captions, row)
    assert (captions.draw(20, 0.0, torch.Generator())[2] == -1).all()


def test_a_small_vocabulary_reads_as_the_whole_and_writes_back(captions):
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 32}
    model = open_clip.CLIP(8, vision, text).eval()
    tokens = captions.tokens[:, 0, 0]
    with torch.no_grad():
        before, untouched = (
            model.encode_text(captions.vocabulary[tokens]),
            model.token_embedding.weight[7].clone(),
        )
        with small_vocabulary(model, captions.vocabulary):
            assert torch.allclose(model.encode_text(tokens), before, atol=1e-6)
            model.token_embedding.weight += torch.arange(
                16.0
            )  # the same for all of them would be lost on the layer norms
    assert torch.equal(model.token_embedding.weight[7], untouched)
    assert not torch.allclose(model.encode_text(captions.vocabulary[tokens]), before)
