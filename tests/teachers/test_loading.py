import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import TeacherConfig, UserError
from beamclip.data.augmentation.render import PixelFormat
from beamclip.stores import key_of
from beamclip.teachers import load_teacher, precision_for
from beamclip.teachers.loading import load_same_teacher

CPU = torch.device("cpu")


def load(folder, **values):
    return load_teacher(TeacherConfig(model=f"local-dir:{folder}", **values), CPU)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_on_a_cpu_bf16_is_never_chosen_by_itself(wanted, expected):
    assert precision_for(wanted, CPU) == expected


def test_preprocessing_is_what_the_folder_says(teacher):
    assert teacher.pixels == PixelFormat(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")


def test_other_preprocessing_is_read_too(change_config):
    folder = change_config("preprocess_cfg", interpolation="bicubic", mean=[0.1, 0.2, 0.3])
    assert load(folder).pixels == PixelFormat(32, (0.1, 0.2, 0.3), (0.2, 0.25, 0.3), "bicubic")


def test_one_number_stands_for_all_three_colours(change_config):
    assert load(change_config("preprocess_cfg", mean=0.5)).pixels.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("mean", [[0.5, 0.5], "grey", ["a", "b", "c"], {}])
def test_numbers_that_are_no_colours_are_a_sentence(change_config, mean):
    with pytest.raises(
        UserError,
        match=r"tiny_teacher has the preprocess_cfg.mean .*; write three numbers there|can't be loaded",
    ):
        load(change_config("preprocess_cfg", mean=mean))


def test_a_teacher_of_oblong_images_is_a_sentence(copied):
    path = copied / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"]["image_size"] = [32, 64]
    path.write_text(json.dumps(content))
    weights = load_file(copied / "open_clip_model.safetensors")
    weights["visual.positional_embedding"] = torch.zeros(1 + 4 * 8, 32)
    save_file(weights, copied / "open_clip_model.safetensors")
    with pytest.raises(
        UserError, match="tiny_teacher takes images of 64 x 32 px; give one that takes squares"
    ):
        load(copied)


def test_the_same_teacher_is_found_elsewhere_and_another_one_is_a_sentence(
    teacher, copied, change_weight
):
    known = key_of(teacher.text_fingerprint)
    config = TeacherConfig(model=f"local-dir:{copied}")
    found = load_same_teacher(config, 1, lambda one: one.text_fingerprint, known)
    assert found.text_fingerprint == teacher.text_fingerprint
    change_weight("visual.proj")
    load_same_teacher(config, 1, lambda one: one.text_fingerprint, known)
    with pytest.raises(
        UserError, match="has other weights on this node than on the first; give all nodes the same"
    ):
        load_same_teacher(config, 1, lambda one: one.fingerprint, key_of(teacher.fingerprint))


def test_a_folder_is_known_by_its_name_and_has_no_tag(copied):
    assert load(copied).name == "tiny_teacher"
    assert (
        load(copied, pretrained="laion2b_s34b_b79k").name == "tiny_teacher"
    )  # from a preset; open_clip ignores it too


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
        (
            "ViT-B-23",
            None,
            r"teacher.model ViT-B-23 is no open_clip model; did you mean .*ViT-B-32",
        ),
        (
            "ViT-B-32",
            "laion2b_s34b_b97k",
            r"laion2b_s34b_b97k is no tag of ViT-B-32; did you mean .*laion2b_s34b_b79k",
        ),
        (
            "ViT-B-32",
            None,
            r"teacher.pretrained is missing for ViT-B-32: weights are known as .*openai",
        ),
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
    with pytest.raises(
        UserError, match=r"tiny_taecher, which does not exist; did you mean tiny_teacher"
    ):
        load(copied.with_name("tiny_taecher"))


def test_missing_weights_are_a_sentence(copied):
    (copied / "open_clip_model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"tiny_teacher holds no weights; put open_clip_model.safetensors"
    ):
        load(copied)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "\xff\xfe",
        "7",
        "[]",
        "{}",
        '{"model_cfg": 7}',
        '{"model_cfg": {"embed_dim": 16}}',
    ],
)
def test_a_bad_configuration_is_a_sentence_that_names_it(copied, text):
    path = copied / "open_clip_config.json"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"tiny_teacher") as error:
        load(copied)
    assert "open_clip_config.json" in sentence(error) or "can't be loaded" in sentence(error)


def test_a_configuration_that_open_clip_does_not_know_is_a_sentence(change_config):
    with pytest.raises(UserError, match=r"teacher.model .*tiny_teacher can't be loaded: .*wheels"):
        load(change_config("model_cfg", wheels=4))


@pytest.mark.parametrize(
    "spoil", [lambda content: content[:1000], lambda content: content[:-1000], lambda _: b""]
)
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
