"""The teacher's embeddings and fingerprints."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import TeacherConfig
from beamclip.teachers import load_teacher

CPU = torch.device("cpu")


def load(folder, **values):
    return load_teacher(TeacherConfig(model=f"local-dir:{folder}", **values), CPU)


def test_it_is_frozen_and_in_evaluation_mode(teacher):
    assert not any(part.training for part in teacher.model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not teacher.encode_images(torch.zeros(1, 3, 32, 32)).requires_grad


def test_the_tokenizer_has_the_model_s_context(teacher):
    assert teacher.tokenizer(["moss"]).shape == (1, 16)
    assert teacher.encode_texts(["a very long sentence " * 20]).shape == (1, 16)


def test_embeddings_are_open_clip_s_in_fp32_at_unit_length(teacher):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    embeddings, texts = teacher.encode_images(images), teacher.encode_texts(["moss", "rose"])
    for rows in (embeddings, texts):
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    with torch.inference_mode():
        torch.testing.assert_close(embeddings, teacher.model.encode_image(images, normalize=True))
        torch.testing.assert_close(
            texts, teacher.model.encode_text(teacher.tokenizer(["moss", "rose"]), normalize=True)
        )
    assert teacher.width == 16


def test_many_texts_are_encoded_in_batches_and_keep_their_order(teacher, monkeypatch):
    texts = [f"photo {i}" for i in range(7)]
    whole = teacher.encode_texts(texts)
    monkeypatch.setattr("beamclip.teachers.tower._TEXT_BATCH", 3)
    torch.testing.assert_close(teacher.encode_texts(texts), whole)


def test_bf16_is_used_on_request_and_embeddings_are_fp32(teacher, teacher_folder):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rough = load(teacher_folder, precision="bf16").encode_images(images)
    exact = teacher.encode_images(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough * exact).sum(1).min() > 0.99


def test_the_fingerprint_is_the_same_after_loading_and_changes_with_one_weight(
    teacher, copied_teacher
):
    assert load(copied_teacher).fingerprint == teacher.fingerprint
    json.dumps(teacher.fingerprint)  # it goes into keys
    path = copied_teacher / "open_clip_model.safetensors"
    weights = load_file(path)
    weights["visual.proj"][3, 5] += 1e-6
    save_file(weights, path)
    assert load(copied_teacher).fingerprint != teacher.fingerprint


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("preprocess_cfg", {"mean": [0.5, 0.4, 0.31]}),
        ("preprocess_cfg", {"interpolation": "bicubic"}),
        ("model_cfg", {"quick_gelu": True}),
    ],
)
def test_the_fingerprint_changes_with_settings_that_change_no_weight(
    teacher, change_config, section, values
):
    assert load(change_config(section, **values)).fingerprint != teacher.fingerprint


def test_the_fingerprint_changes_with_precision(teacher, teacher_folder):
    assert load(teacher_folder, precision="bf16").fingerprint != teacher.fingerprint


@pytest.mark.parametrize("weight", ["visual.proj", "visual.conv1.weight", "logit_scale"])
def test_text_embeddings_do_not_depend_on_the_image_tower(teacher, change_weight, weight):
    assert load(change_weight(weight)).text_fingerprint == teacher.text_fingerprint
    json.dumps(teacher.text_fingerprint)  # it goes into keys


@pytest.mark.parametrize(
    "weight",
    ["text_projection", "token_embedding.weight", "positional_embedding", "ln_final.weight"],
)
def test_the_text_fingerprint_changes_with_one_weight_of_the_text_tower(
    teacher, change_weight, weight
):
    assert load(change_weight(weight)).text_fingerprint != teacher.text_fingerprint


def test_the_text_fingerprint_changes_with_text_settings_and_not_with_pixels(
    teacher, copied_teacher, change_config
):
    mean = load(change_config("preprocess_cfg", mean=[0.1, 0.2, 0.3]))
    assert mean.fingerprint != teacher.fingerprint
    assert mean.text_fingerprint == teacher.text_fingerprint
    config = json.loads((copied_teacher / "open_clip_config.json").read_text())["model_cfg"]
    heads = load(change_config("model_cfg", text_cfg=config["text_cfg"] | {"heads": 4}))
    assert heads.text_fingerprint != teacher.text_fingerprint
    # Texts are always encoded in fp32.
    assert load(copied_teacher, precision="bf16").text_fingerprint == heads.text_fingerprint
