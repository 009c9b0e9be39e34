import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import TeacherConfig, UserError
from beamclip.data.views import PixelFormat
from beamclip.stores import key_of
from beamclip.teachers import load_teacher, precision_for
from beamclip.teachers.tower import load_same_teacher

CPU = torch.device("cpu")


def load(folder, **values):
    return load_teacher(TeacherConfig(model=f"local-dir:{folder}", **values), CPU)


@pytest.fixture
def copied(teacher_folder, tmp_path):
    """A teacher's folder that a test may spoil."""
    return shutil.copytree(teacher_folder, tmp_path / "tiny_teacher")


@pytest.fixture
def change_config(copied):
    """Change keys of one section of the configuration: `change_config("preprocess_cfg", size=16)`."""

    def change(section, **values):
        path = copied / "open_clip_config.json"
        content = json.loads(path.read_text())
        content[section] |= values
        path.write_text(json.dumps(content))
        return copied

    return change


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
        torch.testing.assert_close(texts, teacher.model.encode_text(teacher.tokenizer(["moss", "rose"]), normalize=True))
    assert teacher.width == 16


def test_many_texts_are_read_in_parts_and_keep_their_order(teacher, monkeypatch):
    texts = [f"photo {i}" for i in range(7)]
    whole = teacher.encode_texts(texts)
    monkeypatch.setattr("beamclip.teachers.tower._TEXT_BATCH", 3)
    torch.testing.assert_close(teacher.encode_texts(texts), whole)


def test_bf16_is_used_where_asked_for_and_comes_out_as_fp32(teacher, teacher_folder):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rough, exact = load(teacher_folder, precision="bf16").encode_images(images), teacher.encode_images(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough * exact).sum(1).min() > 0.99


@pytest.mark.parametrize(("wanted", "expected"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_on_a_cpu_bf16_is_never_chosen_by_itself(wanted, expected):
    assert precision_for(wanted, CPU) == expected


def test_preprocessing_is_what_the_folder_says(teacher):
    assert teacher.pixels == PixelFormat(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")


def test_other_preprocessing_is_read_too(change_config):
    folder = change_config("preprocess_cfg", interpolation="bicubic", mean=[0.1, 0.2, 0.3])
    assert load(folder).pixels == PixelFormat(32, (0.1, 0.2, 0.3), (0.2, 0.25, 0.3), "bicubic")


def test_the_fingerprint_stays_over_loading_and_changes_with_one_weight(teacher, copied):
    assert load(copied).fingerprint == teacher.fingerprint
    json.dumps(teacher.fingerprint)  # it goes into keys
    path = copied / "open_clip_model.safetensors"
    weights = load_file(path)
    weights["visual.proj"][3, 5] += 1e-6
    save_file(weights, path)
    assert load(copied).fingerprint != teacher.fingerprint


@pytest.mark.parametrize(
    ("section", "values"),
    [("preprocess_cfg", {"mean": [0.5, 0.4, 0.31]}), ("preprocess_cfg", {"interpolation": "bicubic"}), ("model_cfg", {"quick_gelu": True})],
)
def test_the_fingerprint_changes_with_what_the_weights_do_not_show(teacher, change_config, section, values):
    assert load(change_config(section, **values)).fingerprint != teacher.fingerprint


def test_the_fingerprint_changes_with_precision(teacher, teacher_folder):
    assert load(teacher_folder, precision="bf16").fingerprint != teacher.fingerprint


@pytest.mark.parametrize("weight", ["visual.proj", "visual.conv1.weight", "logit_scale"])
def test_text_embeddings_do_not_depend_on_the_image_tower(teacher, copied, weight):
    assert change_weight(copied, weight).text_fingerprint == teacher.text_fingerprint
    json.dumps(teacher.text_fingerprint)  # it goes into keys


@pytest.mark.parametrize("weight", ["text_projection", "token_embedding.weight", "positional_embedding", "ln_final.weight"])
def test_the_text_fingerprint_changes_with_one_weight_of_the_text_tower(teacher, copied, weight):
    assert change_weight(copied, weight).text_fingerprint != teacher.text_fingerprint


def change_weight(folder, name):
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[0] += 1e-4
    save_file(weights, path)
    return load(folder)


def test_the_text_fingerprint_changes_with_what_text_weights_do_not_show_and_not_with_pixels(teacher, copied, change_config):
    mean = load(change_config("preprocess_cfg", mean=[0.1, 0.2, 0.3]))
    assert mean.fingerprint != teacher.fingerprint and mean.text_fingerprint == teacher.text_fingerprint
    config = json.loads((copied / "open_clip_config.json").read_text())["model_cfg"]
    heads = load(change_config("model_cfg", text_cfg=config["text_cfg"] | {"heads": 4}))
    assert heads.text_fingerprint != teacher.text_fingerprint
    assert load(copied, precision="bf16").text_fingerprint == heads.text_fingerprint  # texts are always encoded in fp32


def test_the_same_teacher_is_found_elsewhere_and_another_one_is_a_sentence(teacher, copied):
    known = key_of(teacher.text_fingerprint)
    config = TeacherConfig(model=f"local-dir:{copied}")
    found = load_same_teacher(config, 1, lambda one: one.text_fingerprint, known)
    assert found.text_fingerprint == teacher.text_fingerprint
    change_weight(copied, "visual.proj")
    load_same_teacher(config, 1, lambda one: one.text_fingerprint, known)
    with pytest.raises(UserError, match="has other weights on this node than on the first; give all nodes the same"):
        load_same_teacher(config, 1, lambda one: one.fingerprint, key_of(teacher.fingerprint))


def test_a_folder_is_known_by_its_name_and_has_no_tag(copied):
    assert load(copied).name == "tiny_teacher"
    assert load(copied, pretrained="laion2b_s34b_b79k").name == "tiny_teacher"  # from a preset; open_clip ignores it too


def test_loading_leaves_everybody_s_logging_as_it_was(teacher_folder):
    root = logging.getLogger()
    before = root.level
    try:
        root.setLevel(logging.INFO)
        load(teacher_folder)
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        ("ViT-B-23", None, r"teacher.model ViT-B-23 is no open_clip model; did you mean .*ViT-B-32"),
        ("ViT-B-32", "laion2b_s34b_b97k", r"laion2b_s34b_b97k is no tag of ViT-B-32; did you mean .*laion2b_s34b_b79k"),
        ("ViT-B-32", None, r"teacher.pretrained is missing for ViT-B-32: weights are known as .*openai"),
    ],
)
def test_unknown_names_are_sentences_with_near_names(model, pretrained, expected):
    with pytest.raises(UserError, match=expected) as error:
        load_teacher(TeacherConfig(model=model, pretrained=pretrained), CPU)
    sentence(error)


def test_a_folder_without_its_prefix_is_recognised(teacher_folder):
    with pytest.raises(UserError, match=f"for a folder write local-dir:{teacher_folder}"):
        load_teacher(TeacherConfig(model=str(teacher_folder)), CPU)


def test_a_missing_folder_is_a_sentence_with_near_names(copied):
    with pytest.raises(UserError, match=r"tiny_taecher, which does not exist; did you mean tiny_teacher"):
        load(copied.with_name("tiny_taecher"))


def test_missing_weights_are_a_sentence(copied):
    (copied / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"tiny_teacher holds no weights; put open_clip_model.safetensors"):
        load(copied)


@pytest.mark.parametrize("text", [None, "{", "\xff\xfe", "7", "[]", "{}", '{"model_cfg": 7}', '{"model_cfg": {"embed_dim": 16}}'])
def test_a_bad_configuration_is_a_sentence_that_names_it(copied, text):
    path = copied / "open_clip_config.json"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"tiny_teacher") as error:
        load(copied)
    assert "open_clip_config.json" in sentence(error) or "can't be loaded" in sentence(error)


def test_a_configuration_that_open_clip_does_not_know_is_a_sentence(change_config):
    with pytest.raises(UserError, match=r"teacher.model .*tiny_teacher can't be loaded: .*wheels"):
        load(change_config("model_cfg", wheels=4))


@pytest.mark.parametrize("spoil", [lambda content: content[:1000], lambda content: content[:-1000], lambda _: b""])
def test_weights_that_are_cut_short_are_a_sentence(copied, spoil):
    path = copied / "open_clip_model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="can't be loaded") as error:
        load(copied)
    sentence(error)


def test_weights_of_another_shape_are_a_sentence(change_config):
    with pytest.raises(UserError, match="can't be loaded") as error:
        load(change_config("model_cfg", embed_dim=24))
    sentence(error)
