"""One sentence about each file that is not the teacher's weights."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beamclip.config import TeacherConfig, UserError
from beamclip.teachers import load_teacher

CPU = torch.device("cpu")
BIN = "open_clip_pytorch_model.bin"


@pytest.fixture
def weights(copied_teacher):
    """Return the copied teacher's weights, and remove their file."""
    path = copied_teacher / "open_clip_model.safetensors"
    loaded = load_file(path)
    path.unlink()
    return loaded


def message(folder):
    with pytest.raises(UserError) as caught:
        load_teacher(TeacherConfig(model=f"local-dir:{folder}"), CPU)
    text = str(caught.value)
    # No traceback, no terminal codes, and none of torch's advice to unpickle.
    assert "\n" not in text and "\x1b" not in text and "weights_only" not in text
    return text


def test_weights_in_a_dict_with_others_are_named(copied_teacher, weights):
    torch.save({"model": weights}, copied_teacher / BIN)
    text = message(copied_teacher)
    assert f"{BIN} is a torch checkpoint, but its weights don't fit the model: they lack " in text
    assert "more; they have model; save the weights under 'model' alone" in text


@pytest.mark.parametrize("prefix", ["_orig_mod.", "clip.model."])
def test_keys_with_a_prefix_are_named(copied_teacher, weights, prefix):
    torch.save({f"{prefix}{key}": value for key, value in weights.items()}, copied_teacher / BIN)
    text = message(copied_teacher)
    assert f"they have {prefix}" in text
    assert f"save them again without '{prefix}' in front of the keys" in text


def test_wrappers_that_open_clip_knows_are_loaded(copied_teacher, weights, teacher):
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"epoch": 1, "state_dict": wrapped}, copied_teacher / BIN)
    loaded = load_teacher(TeacherConfig(model=f"local-dir:{copied_teacher}"), CPU)
    assert loaded.fingerprint == teacher.fingerprint


def test_missing_extra_and_other_keys_are_listed_three_of_each(copied_teacher, weights):
    weights["extra.weight"] = torch.zeros(1)
    weights["visual.proj"] = torch.zeros(3, 4)
    torch.save(weights, copied_teacher / BIN)
    text = message(copied_teacher)
    assert "they have extra.weight; shapes differ: visual.proj (3, 4 for " in text
    assert text.endswith("give the model whose weights these are, or other weights")


def test_weights_of_another_width_are_named(copied_teacher, weights):
    """open_clip only asserts that the width of the position embedding is right."""
    weights["positional_embedding"] = torch.zeros(16, 8)
    torch.save(weights, copied_teacher / BIN)
    text = message(copied_teacher)
    assert "is a torch checkpoint, but its weights don't fit the model (text pos_embed" in text
    assert text.endswith("; give the model whose weights these are, or other weights")


def test_numpy_numbers_next_to_weights_are_not_unpickled(copied_teacher, weights):
    torch.save({"state_dict": weights, "best": np.float64(1)}, copied_teacher / BIN)
    text = message(copied_teacher)
    assert f"{BIN} is a torch checkpoint that holds other Python objects than weights" in text
    assert "multiarray.scalar)" in text and "save its weights alone" in text


def test_a_pickle_with_code_is_not_run(copied_teacher, weights, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"state_dict": weights, "x": Malicious()}, copied_teacher / BIN)
    text = message(copied_teacher)
    assert "mkdir), which are not loaded, since they can run code" in text
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [BIN, "open_clip_model.safetensors"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "is a Git LFS pointer"),
        ("<!DOCTYPE html><html></html>", "is a web page"),
        ("", "is empty; copy or download it again"),
    ],
)
def test_a_file_that_is_something_else_is_named(copied_teacher, weights, name, content, expected):
    (copied_teacher / name).write_text(content)
    assert f"{name} {expected}" in message(copied_teacher)


def test_a_weights_file_that_is_something_else_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("<html></html>")
    with pytest.raises(
        UserError, match=r"ViT-S-32-alt can't be loaded: .*weights.pt is a web page"
    ):
        load_teacher(TeacherConfig(model="ViT-S-32-alt", pretrained=str(path)), CPU)


def test_a_file_name_that_open_clip_does_not_look_for_is_named(copied_teacher, weights):
    torch.save(weights, copied_teacher / "epoch_1.pt")
    assert message(copied_teacher).endswith(
        f"contains no weights; open_clip does not look for epoch_1.pt: rename it to {BIN}"
    )
    (copied_teacher / "epoch_1.pt").rename(copied_teacher / BIN)
    assert load_teacher(TeacherConfig(model=f"local-dir:{copied_teacher}"), CPU)


@pytest.mark.parametrize("content", [[1], {}, {1: torch.zeros(1)}, torch.zeros(1)])
def test_a_checkpoint_without_a_state_dict_is_named(copied_teacher, weights, content):
    torch.save(content, copied_teacher / BIN)
    assert f"{BIN} is a torch checkpoint, but not a state_dict; save" in message(copied_teacher)


def test_several_models_in_a_file_are_named(copied_teacher, weights):
    torch.save({"model": weights, "ema": weights}, copied_teacher / BIN)
    assert "save the weights under 'model' or 'ema' alone" in message(copied_teacher)


def test_weights_under_module_are_named(copied_teacher, weights):
    torch.save({"module": weights}, copied_teacher / BIN)
    assert "save the weights under 'module' alone" in message(copied_teacher)


def test_a_name_that_ends_like_another_kind_is_named(copied_teacher, weights):
    save_file(weights, copied_teacher / BIN)
    assert message(copied_teacher).endswith(
        "is a safetensors file, but its name says otherwise; "
        "rename it to open_clip_pytorch_model.safetensors"
    )
    (copied_teacher / BIN).unlink()
    torch.save(weights, copied_teacher / "open_clip_model.safetensors")
    assert message(copied_teacher).endswith(
        "is a torch checkpoint, but its name says otherwise; rename it to open_clip_model.bin"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pretrained": "FOLDER/none.pt"}, "is not a tag of RN50, and there is no such file"),
        (
            {"model": "ViT-S-32-alt", "pretrained": "laion2b"},
            "is not a tag of ViT-S-32-alt, which has no tags; give a weights file",
        ),
        ({"pretrained": "FOLDER"}, "but a folder; write teacher.model=local-dir:"),
        ({"model": "FOLDER/w.pt"}, "is not an open_clip model; for a weights file, name its model"),
    ],
)
def test_a_path_in_the_wrong_setting_is_named(tmp_path, settings, expected):
    (tmp_path / "w.pt").touch()
    paths = {name: value.replace("FOLDER", str(tmp_path)) for name, value in settings.items()}
    with pytest.raises(UserError, match=expected):
        load_teacher(TeacherConfig(**({"model": "RN50"} | paths)), CPU)
