"""The normalization of a teacher's images: where it is found, and when it must be given."""

import json

import open_clip
import pytest
import torch

from beamclip.cli.doctor import CHECKS
from beamclip.config import TowerConfig, UserError, load_experiment
from beamclip.stores import key_of
from beamclip.stores.paths import asset_key
from beamclip.teachers import load_teacher
from beamclip.teachers.normalization import pixel_format

CPU = torch.device("cpu")
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic")
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")


def found(teacher, model, pretrained="/weights/mine.pt", **settings):
    """Return what is found for a model name; only the image size comes from the loaded teacher."""
    config = TowerConfig(model=model, pretrained=pretrained, **settings)
    pixels, sources = pixel_format(teacher.model, config)
    return (pixels.mean, pixels.std, pixels.interpolation), set(sources.values())


def without(path, *keys):
    """Remove keys from a folder's `preprocess_cfg`; all of it without keys."""
    file = path / "open_clip_config.json"
    content = json.loads(file.read_text())
    for key in keys:
        del content["preprocess_cfg"][key]
    if not keys:
        del content["preprocess_cfg"]
    file.write_text(json.dumps(content))
    return f"local-dir:{path}"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("ViT-B-32", OPENAI),
        ("ViT-B-16-SigLIP", HALF),
        ("MobileCLIP-S1", ((0, 0, 0), (1, 1, 1), "bilinear")),
    ],
)
def test_a_weights_file_takes_what_all_tags_of_its_model_agree_on(teacher, model, expected):
    assert found(teacher, model) == (expected, {f"as all open_clip tags of {model}"})


def test_a_tag_has_its_own_normalization(teacher):
    tag = "laion2b_s32b_b82k"
    assert found(teacher, "ViT-L-14", tag) == (HALF, {f"open_clip's tag {tag}"})
    assert found(teacher, "ViT-L-14", "openai") == (OPENAI, {"open_clip's tag openai"})


def test_a_weights_file_whose_model_has_different_tags_must_be_told_the_normalization(teacher):
    with pytest.raises(
        UserError,
        match=r"teacher\.model ViT-L-14 needs the mean and std .* the weights file "
        r"/weights/mine\.pt has none, and open_clip's tags of ViT-L-14 differ; "
        r"set teacher\.mean and teacher\.std \(OpenAI's CLIP: teacher\.mean=\[0\.48145466,",
    ):
        found(teacher, "ViT-L-14")
    values, sources = found(teacher, "ViT-L-14", mean=HALF[0], std=HALF[1])
    assert values == HALF
    assert sources == {"teacher.mean", "teacher.std", "as all open_clip tags of ViT-L-14"}


def test_a_weights_file_of_a_model_without_tags_must_be_told_the_normalization(teacher):
    with pytest.raises(
        UserError,
        match=r"needs the mean, std and interpolation .*open_clip has none for this architecture; "
        r"set teacher\.mean, teacher\.std and teacher\.interpolation",
    ):
        found(teacher, "ViT-S-32-alt")


def test_a_folder_without_preprocessing_must_be_told_the_normalization(copied_teacher):
    model = without(copied_teacher)
    with pytest.raises(
        UserError,
        match=r"tiny_teacher needs the mean, std and interpolation .*"
        r"its open_clip_config\.json has none",
    ):
        load_teacher(TowerConfig(model=model), CPU)
    given = TowerConfig(model=model, mean=(0.5, 0.4, 0.3), std=HALF[1], interpolation="bilinear")
    pixels = load_teacher(given, CPU).pixels
    assert (pixels.mean, pixels.std, pixels.interpolation) == (
        (0.5, 0.4, 0.3),
        HALF[1],
        "bilinear",
    )


def test_a_folder_with_mean_and_std_alone_has_the_interpolation_of_open_clip(copied_teacher):
    loaded = load_teacher(TowerConfig(model=without(copied_teacher, "interpolation")), CPU)
    assert loaded.input_description == (
        "32 px, mean 0.5 0.4 0.3 (its open_clip_config.json), "
        "std 0.2 0.25 0.3 (its open_clip_config.json), bicubic (open_clip's default)"
    )


def test_a_folder_of_a_known_architecture_takes_what_its_tags_agree_on(teacher, tmp_path):
    content = {"model_cfg": open_clip.get_model_config("MobileCLIP-S1")}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    values, sources = found(teacher, f"local-dir:{tmp_path}", None)
    assert values == ((0, 0, 0), (1, 1, 1), "bilinear")
    assert sources == {"as all open_clip tags of MobileCLIP-S1"}


def test_a_hub_model_takes_what_its_configuration_on_the_hub_says(
    teacher, teacher_folder, monkeypatch
):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return str(teacher_folder / filename)

    monkeypatch.setattr("beamclip.teachers.normalization.download_pretrained_from_hf", download)
    values, sources = found(teacher, "hf-hub:me/clip", None)
    assert values == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")
    assert sources == {"its open_clip_config.json"}
    assert asked == [("me/clip", "open_clip_config.json")]


def test_an_interpolation_that_open_clip_does_not_have_is_a_user_error(change_config):
    folder = change_config("preprocess_cfg", interpolation="lanczos")
    with pytest.raises(UserError, match=r"preprocess_cfg\.interpolation lanczos .* bicubic or"):
        load_teacher(TowerConfig(model=f"local-dir:{folder}"), CPU)


def test_settings_override_the_folder_and_change_the_fingerprint(teacher, copied_teacher):
    model = f"local-dir:{copied_teacher}"
    assert key_of(load_teacher(TowerConfig(model=model), CPU).fingerprint) == key_of(
        teacher.fingerprint
    )
    same = TowerConfig(model=model, mean=(0.5, 0.4, 0.3))
    assert key_of(load_teacher(same, CPU).fingerprint) == key_of(teacher.fingerprint)
    other = TowerConfig(model=model, mean=(0.5, 0.4, 0.31))
    assert key_of(load_teacher(other, CPU).fingerprint) != key_of(teacher.fingerprint)


def test_settings_that_are_not_given_are_in_no_key():
    base = load_experiment("demo", {"teacher.others": [{"model": "RN50", "pretrained": "openai"}]})
    teacher = base.key_parts()["teacher"]
    for tower in (teacher, *teacher["others"]):
        assert not {"mean", "std", "interpolation"} & set(tower)
    # They are settings nevertheless, and in MLflow's params and the saved settings.
    assert base.model_dump()["teacher"]["mean"] is None


def test_settings_that_are_given_change_the_asset_key():
    plain = load_experiment("demo")
    given = load_experiment("demo", {"teacher.mean": [0.5, 0.5, 0.5]})
    assert given.teacher.mean == (0.5, 0.5, 0.5)
    assert asset_key(given) != asset_key(plain)
    other = {"model": "RN50", "pretrained": "openai"}
    keys = {
        asset_key(load_experiment("demo", {"teacher.others": [other | settings]}))
        for settings in ({}, {"std": [0.5, 0.5, 0.5]}, {"interpolation": "bilinear"})
    }
    assert len(keys) == 3


@pytest.mark.parametrize("mean", [[123.7, 116.3, 103.5], [0.5, 0.5], 0.5])
def test_a_mean_is_three_numbers_in_0_to_1(mean):
    with pytest.raises(UserError, match=r"teacher\.mean"):
        load_experiment("demo", {"teacher.mean": mean})


def test_doctor_shows_the_normalization_and_where_it_is_written(teacher_folder):
    experiment = load_experiment("cifar10", {"teacher.model": f"local-dir:{teacher_folder}"})
    assert "32 px, mean 0.5 0.4 0.3, std 0.2 0.25 0.3, bilinear (its open_clip_config.json)" in (
        CHECKS["teacher"](experiment)
    )
