"""Loading teachers, and the messages for names, folders and files that can't be loaded."""

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
def test_on_a_cpu_auto_never_chooses_bf16(wanted, expected):
    assert precision_for(wanted, CPU) == expected


def test_preprocessing_is_read_from_the_folder(teacher):
    assert teacher.pixels == PixelFormat(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")


def test_other_preprocessing_is_read_too(change_config):
    folder = change_config("preprocess_cfg", interpolation="bicubic", mean=[0.1, 0.2, 0.3])
    assert load(folder).pixels == PixelFormat(32, (0.1, 0.2, 0.3), (0.2, 0.25, 0.3), "bicubic")


def test_one_number_is_used_for_all_three_channels(change_config):
    assert load(change_config("preprocess_cfg", mean=0.5)).pixels.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("mean", [[0.5, 0.5], "gray", ["a", "b", "c"], {}])
def test_a_mean_that_is_not_three_numbers_is_a_user_error(change_config, mean):
    with pytest.raises(
        UserError,
        match=r"tiny_teacher has preprocess_cfg.mean .* in its open_clip_config.json; "
        r"write three numbers from 0 to 1 there|can't be loaded",
    ):
        load(change_config("preprocess_cfg", mean=mean))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [123.675, 116.28, 103.53]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [58.395, 57.12, 57.375]),
        ("std", [0.2, 0.0, 0.2]),
    ],
)
def test_a_normalization_out_of_range_is_a_user_error(change_config, key, value):
    with pytest.raises(UserError, match=rf"preprocess_cfg\.{key} .* three numbers from 0 to 1"):
        load(change_config("preprocess_cfg", **{key: value}))


def test_a_teacher_of_oblong_images_is_a_user_error(copied_teacher):
    path = copied_teacher / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"]["image_size"] = [32, 64]
    path.write_text(json.dumps(content))
    weights = load_file(copied_teacher / "open_clip_model.safetensors")
    weights["visual.positional_embedding"] = torch.zeros(1 + 4 * 8, 32)
    save_file(weights, copied_teacher / "open_clip_model.safetensors")
    with pytest.raises(
        UserError,
        match="tiny_teacher takes images of 64 x 32 px; choose one that takes square images",
    ):
        load(copied_teacher)


def test_another_process_loads_the_same_teacher_and_a_different_one_is_a_user_error(
    teacher, copied_teacher, change_weight
):
    key = key_of(teacher.text_fingerprint)
    config = TeacherConfig(model=f"local-dir:{copied_teacher}")
    loaded = load_same_teacher(config, 1, lambda found: found.text_fingerprint, key)
    assert loaded.text_fingerprint == teacher.text_fingerprint
    change_weight("visual.proj")
    load_same_teacher(config, 1, lambda found: found.text_fingerprint, key)
    with pytest.raises(
        UserError, match="has other weights on this node than on the first; give all nodes the same"
    ):
        load_same_teacher(config, 1, lambda found: found.fingerprint, key_of(teacher.fingerprint))


def test_a_folder_s_name_is_the_teacher_s_and_has_no_tag(copied_teacher):
    assert load(copied_teacher).name == "tiny_teacher"
    # A preset may set a tag. open_clip ignores it too.
    assert load(copied_teacher, pretrained="laion2b_s34b_b79k").name == "tiny_teacher"


def test_loading_restores_the_level_of_the_root_logger(teacher_folder):
    root = logging.getLogger()
    before = root.level
    try:
        root.setLevel(logging.INFO)
        load(teacher_folder)
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        (
            "ViT-B-23",
            None,
            r"teacher.model ViT-B-23 is not an open_clip model; did you mean .*ViT-B-32",
        ),
        (
            "ViT-B-32",
            "laion2b_s34b_b97k",
            r"laion2b_s34b_b97k is not a tag of ViT-B-32; did you mean .*laion2b_s34b_b79k",
        ),
        (
            "ViT-B-32",
            None,
            r"teacher.pretrained is missing for ViT-B-32; its tags are .*openai",
        ),
    ],
)
def test_unknown_names_are_reported_with_similar_names(model, pretrained, expected):
    with pytest.raises(UserError, match=expected) as error:
        load_teacher(TeacherConfig(model=model, pretrained=pretrained), CPU)
    one_line(error)


def test_a_folder_without_its_prefix_is_recognized(teacher_folder):
    with pytest.raises(UserError, match=f"for a folder write local-dir:{teacher_folder}"):
        load_teacher(TeacherConfig(model=str(teacher_folder)), CPU)


def test_a_missing_folder_is_reported_with_similar_names(copied_teacher):
    with pytest.raises(
        UserError, match=r"tiny_taecher, which does not exist; did you mean tiny_teacher"
    ):
        load(copied_teacher.with_name("tiny_taecher"))


def test_missing_weights_are_a_user_error(copied_teacher):
    (copied_teacher / "open_clip_model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"tiny_teacher contains no weights; put open_clip_model.safetensors"
    ):
        load(copied_teacher)


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
def test_a_bad_configuration_is_a_user_error_that_names_the_file(copied_teacher, text):
    path = copied_teacher / "open_clip_config.json"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"tiny_teacher") as error:
        load(copied_teacher)
    assert "open_clip_config.json" in one_line(error) or "can't be loaded" in one_line(error)


def test_a_configuration_that_open_clip_does_not_accept_is_a_user_error(change_config):
    with pytest.raises(UserError, match=r"teacher.model .*tiny_teacher can't be loaded: .*wheels"):
        load(change_config("model_cfg", wheels=4))


@pytest.mark.parametrize(
    "truncate", [lambda content: content[:1000], lambda content: content[:-1000], lambda _: b""]
)
def test_truncated_weights_are_a_user_error(copied_teacher, truncate):
    path = copied_teacher / "open_clip_model.safetensors"
    path.write_bytes(truncate(path.read_bytes()))
    with pytest.raises(UserError, match="can't be loaded") as error:
        load(copied_teacher)
    one_line(error)


def test_weights_of_another_shape_are_a_user_error(change_config):
    with pytest.raises(UserError, match="can't be loaded") as error:
        load(change_config("model_cfg", embed_dim=24))
    one_line(error)
