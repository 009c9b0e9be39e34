"""SigLIP's text tower has its own tokenizer and context length, and lower-cases texts."""

import json

import pytest
import torch
from safetensors.torch import save_file

from beamclip.anchors.truncation import fits_context, truncate_texts
from beamclip.config import TowerConfig, UserError
from beamclip.teachers import load_teacher

CONTEXT = 12
WORDS = [
    "a",
    "photo",
    "of",
    "crane",
    "bird",
    "large",
    "long",
    "necked",
    "wading",
    "bass",
    "guitar",
    "the",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny SigLIP with random weights.

    Its tokenizer has whole words, and ends, pads and lower-cases as SigLIP's does.
    """
    transformers = pytest.importorskip(
        "transformers", reason='SigLIP needs transformers: pip install "beamclip[siglip]"'
    )
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("siglip")
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    config["embed_dim"] = 16
    config["vision_cfg"] = {
        "image_size": 32,
        "layers": 1,
        "width": 16,
        "head_width": 16,
        "patch_size": 8,
    }
    config["text_cfg"] |= {
        "context_length": CONTEXT,
        "vocab_size": len(vocabulary),
        "width": 16,
        "heads": 2,
        "layers": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(
            **{key: value for key, value in config.items() if key != "custom_text"}
        )
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": 0.5, "std": 0.5}})
    )
    return folder


@pytest.fixture(scope="module")
def siglip(folder):
    return load_teacher(TowerConfig(model=f"local-dir:{folder}"), torch.device("cpu"))


def test_its_own_tokenizer_reads_lower_case_without_punctuation(siglip):
    upper_case, lower_case = siglip.encode_texts(["A photo of a CRANE.", "a photo of a crane"])
    torch.testing.assert_close(upper_case, lower_case)
    assert siglip.tokenizer(["a photo"]).shape == (1, CONTEXT)


def test_texts_are_truncated_at_its_own_context_and_end_token(siglip):
    fits = " ".join(["bird"] * (CONTEXT - 1))
    too_long = f"{fits} crane bass."
    assert fits_context([fits, too_long], siglip.tokenizer) == [True, False]
    assert truncate_texts([fits, too_long], siglip.tokenizer) == {too_long: f"{fits}."}


def test_the_error_says_what_to_install_if_transformers_is_missing(teacher_folder, monkeypatch):
    def missing(*arguments, **settings):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr("open_clip.get_tokenizer", missing)
    with pytest.raises(
        UserError,
        match=r'needs transformers, which is not installed; run pip install "beamclip\[siglip\]"',
    ):
        load_teacher(TowerConfig(model=f"local-dir:{teacher_folder}"), torch.device("cpu"))
