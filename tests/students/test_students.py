"""Students: their weights, stems and projectors, and their files."""

import stat
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from torch import nn

from beamclip.config import StudentConfig, UserError
from beamclip.config.objective_registry import built_in_objectives
from beamclip.students import (
    backbones,
    build_student,
    check_backbone,
    load_student,
    projector_was_trained,
    save_student,
    training_cost_of,
    write_tensors,
)
from beamclip.training.setup import TrainModule


def config(**values):
    return StudentConfig(
        **({"backbone": "test_resnet", "image_size": 32, "projector_width": 24} | values)
    )


def weights(part):
    return torch.cat([p.detach().flatten() for p in part.parameters()])


def header_and_tensors(path):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata(), tensors


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_features_are_the_backbone_s_and_embeddings_the_projector_s(images):
    student = build_student(config(), 16, 0).eval()
    assert student.features(images).shape == (4, 96)
    assert student(images).shape == (4, 16)
    assert torch.equal(student(images), student.projector(student.backbone(images)))


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    first = build_student(config(), 16, 0)
    next_numbers = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), next_numbers)
    torch.manual_seed(6)
    assert torch.equal(weights(build_student(config(), 16, 0)), weights(first))
    assert not torch.equal(weights(build_student(config(), 16, 1)), weights(first))


@pytest.mark.slow
def test_weight_init_torch_resets_every_layer_and_zeroes_no_block():
    """timm initializes the last norm of each ResNet block to zero."""
    resnet = {"backbone": "resnet18", "image_size": 32}
    by_timm = build_student(config(**resnet, weight_init="timm"), 16, 0).backbone
    by_torch = build_student(config(**resnet, weight_init="torch"), 16, 0).backbone
    assert not by_timm.layer1[0].bn2.weight.any()
    assert (by_torch.layer1[0].bn2.weight == 1).all()
    # torch draws the weights of convolutions uniformly up to 1 / sqrt(fan in).
    largest = 1 / (64 * 9) ** 0.5
    assert 0.99 * largest < by_torch.layer1[0].conv1.weight.abs().max() <= largest
    assert by_torch.conv1.weight.shape == (64, 3, 3, 3)  # the small stem is reset too
    linear = build_student(config(**resnet, weight_init="torch", projector="linear"), 16, 0)
    other_seed = build_student(config(**resnet, weight_init="torch", projector="mlp"), 16, 1)
    assert torch.equal(weights(by_torch), weights(linear.backbone))
    assert not torch.equal(weights(by_torch), weights(other_seed.backbone))


def test_the_backbone_s_weights_do_not_depend_on_the_projector():
    mlp = build_student(config(), 16, 0)
    linear = build_student(config(projector="linear"), 8, 0)
    assert torch.equal(weights(mlp.backbone), weights(linear.backbone))
    assert isinstance(linear.projector, nn.Linear)
    assert linear.projector.out_features == 8


@pytest.mark.parametrize(("backbone", "norms"), [("test_resnet", 1), ("test_vit", 0)])
def test_the_projector_has_batch_statistics_if_and_only_if_the_backbone_has(backbone, norms):
    projector = build_student(config(backbone=backbone), 16, 0).projector
    assert sum(isinstance(part, nn.BatchNorm1d) for part in projector) == norms


@pytest.mark.parametrize(("backbone", "normed"), [("test_resnet", True), ("test_vit", False)])
def test_simreg_s_projector_has_four_layers_and_norms_after_the_first_and_third(
    tmp_path, backbone, normed
):
    student = build_student(config(backbone=backbone, projector="mlp4"), 16, 0)
    layers = [
        (part.in_features, part.out_features)
        for part in student.projector
        if isinstance(part, nn.Linear)
    ]
    width = layers[0][0]
    assert layers == [(width, 2 * width), (2 * width, width), (width, 2 * width), (2 * width, 16)]
    kinds = [type(part) for part in student.projector]
    norm = [nn.BatchNorm1d] if normed else []
    assert kinds == 2 * [nn.Linear, *norm, nn.ReLU, nn.Linear]
    save_student(student, tmp_path / "s.safetensors")
    loaded = load_student(tmp_path / "s.safetensors")
    assert loaded.spec.projector == "mlp4"
    assert torch.equal(weights(loaded.projector), weights(student.projector))


def test_without_batch_statistics_half_a_batch_gives_the_same_embeddings(images):
    student = build_student(config(backbone="test_vit"), 16, 0).train()
    halves = torch.cat([student(images[:2]), student(images[2:])])
    torch.testing.assert_close(student(images), halves)


@pytest.mark.parametrize(
    ("backbone", "stem", "size", "side"),
    [
        ("resnet18", "auto", 32, 4), ("resnet18", "never", 32, 1), ("resnet18", "auto", 64, 8),
        ("resnet18", "auto", 65, 3), ("resnet18", "always", 96, 12), ("test_resnet", "auto", 32, 2),
        ("test_resnet", "never", 32, 1),
    ],
)  # fmt: skip
def test_the_small_stem_leaves_a_larger_map(backbone, stem, size, side):
    student = build_student(
        config(backbone=backbone, image_size=size, small_image_stem=stem), 8, 0
    ).eval()
    with torch.inference_mode():
        assert student.backbone.forward_features(torch.zeros(1, 3, size, size)).shape[-1] == side


def test_the_small_stem_is_the_cifar_one():
    backbone = build_student(config(backbone="resnet18"), 8, 0).backbone
    assert backbone.conv1.kernel_size == (3, 3)
    assert backbone.conv1.stride == (1, 1)
    assert isinstance(backbone.maxpool, nn.Identity)


def test_a_backbone_that_is_not_a_resnet_keeps_its_stem_and_always_is_refused():
    assert build_student(config(backbone="test_convnext"), 8, 0).spec.stem == "original"
    with pytest.raises(
        UserError, match=r"small_image_stem is always, but only timm's ResNets .* test_convnext"
    ):
        build_student(config(backbone="test_convnext", small_image_stem="always"), 8, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "resnet81 is not a timm model; did you mean resnet18"),
        ("resnet18.a1_in2k", "did you mean resnet18.a1_in1k"),
        ("hf-hub:a/b", "not a timm model"),
        ("microsoft/resnet-18", "microsoft/resnet-18 is not a timm model; did you mean resnet18"),
    ],
)
def test_an_unknown_backbone_is_reported_with_similar_names(name, message):
    with pytest.raises(UserError, match=message):
        check_backbone(name)


def test_known_backbones_pass():
    # It raises for an unknown one.
    assert check_backbone("resnet18") is None
    assert check_backbone("resnet18.a1_in1k") is None


@pytest.mark.parametrize(
    "prefix", ["timm/", "hf-hub:timm/", "hf_hub:timm/", "https://huggingface.co/timm/"]
)
def test_a_backbone_may_have_the_name_of_its_weights_on_the_hub(prefix):
    assert config(backbone=f"{prefix}resnet18.a1_in1k") == config(backbone="resnet18.a1_in1k")


def test_a_hub_model_that_is_not_timm_s_keeps_its_name():
    assert config(backbone="hf-hub:me/resnet18").backbone == "hf-hub:me/resnet18"


def test_images_too_small_for_a_backbone_are_a_user_error():
    with pytest.raises(
        UserError, match=r"inception_v3 can't take images of student\.image_size 32 px"
    ):
        build_student(config(backbone="inception_v3"), 8, 0)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_saved_student_is_rebuilt_from_its_file_alone(tmp_path, images, backbone):
    student = build_student(config(backbone=backbone), 16, 3)
    student(images)  # moves the batch statistics, which must be saved too
    save_student(student, tmp_path / "student.safetensors", {"run": "a", "backbone": "wrong"})
    state = torch.random.get_rng_state()
    loaded = load_student(tmp_path / "student.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.spec == student.spec
    assert not loaded.training
    assert torch.equal(loaded(images), student.eval()(images))


def test_the_file_is_readable_by_all_and_no_temporary_file_is_left(tmp_path):
    path = tmp_path / "student.safetensors"
    save_student(build_student(config(), 16, 0), path, {"run": "a"})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["run"] == "a"
    assert header["backbone"] == "test_resnet"
    assert header["width"] == "16"
    assert header["format"] == "pt"


def test_channels_last_weights_are_saved(tmp_path, images):
    student = build_student(config(), 16, 0).to(memory_format=torch.channels_last)
    save_student(student, tmp_path / "s.safetensors")
    torch.testing.assert_close(
        load_student(tmp_path / "s.safetensors")(images), student.eval()(images)
    )


def test_init_from_a_student_takes_its_backbone_and_a_projector_that_fits(tmp_path):
    path = tmp_path / "s.safetensors"
    old = build_student(config(small_image_stem="never"), 16, 1)
    save_student(old, path)
    same = build_student(config(init=str(path)), 16, 2)
    wider = build_student(config(init=str(path)), 17, 2)
    assert same.spec.stem == "original"
    assert same.training
    assert torch.equal(weights(same), weights(old))
    assert torch.equal(weights(wider.backbone), weights(old.backbone))
    assert not torch.equal(weights(wider.projector[0]), weights(old.projector[0]))
    assert wider.spec.width == 17


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "resnet18"}, "is a test_vit, but student.backbone is resnet18"),
        (
            {"backbone": "test_vit", "image_size": 64},
            r"trained at 32 px .*student\.image_size 64; set it to 32",
        ),
        (
            {"backbone": "test_vit", "small_image_stem": "always"},
            "has the original stem, but student.small_image_stem is always",
        ),
    ],
)
def test_init_from_another_kind_of_student_is_refused(tmp_path, values, message):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(backbone="test_vit"), 16, 1), path)
    with pytest.raises(UserError, match=message):
        build_student(config(init=str(path), **values), 16, 0)


def test_files_that_are_not_students_are_user_errors(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, message in (
        ("missing", "can't be read"),
        ("cut", "can't be read"),
        ("other", "is not a student saved by this version"),
    ):
        with pytest.raises(UserError, match=message):
            load_student(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="can't be written"):
        save_student(build_student(config(), 16, 0), tmp_path / "nowhere" / "s.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"\(it is a Git LFS pointer .* git lfs pull",
        ),
        (b"\x80\x02}q\0.", r"\(it is a torch checkpoint\); .* give a student.safetensors"),
        (None, r"\(it does not exist\); check the path"),
    ],
)
def test_a_start_that_is_another_file_is_named(tmp_path, content, message):
    path = tmp_path / "start.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"start.pt can't be read as a student's .* {message}"):
        build_student(config(init=str(path)), 16, 0)


def test_weights_that_do_not_fit_are_named_with_their_keys(tmp_path):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(), 16, 1), path)
    header, tensors = header_and_tensors(path)
    tensors["backbone.new"] = tensors.pop("backbone.conv1.0.weight")
    write_tensors(path, tensors, header)
    keys = "they lack {0}conv1.0.weight; they have {0}new"
    with pytest.raises(UserError, match=rf"describes \({keys.format('backbone.')}\)"):
        load_student(path)
    with pytest.raises(UserError, match=rf"; they are damaged.* \({keys.format('')}\)$"):
        build_student(config(init=str(path)), 16, 0)


def test_a_backbone_that_is_a_file_points_to_student_init(tmp_path):
    (tmp_path / "w.pth").touch()
    with pytest.raises(UserError, match=r"w.pth is not a timm model, but a file; .* student.init"):
        check_backbone(str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", "-3"),
        ("width", "0"),
        ("image_size", "-5"),
        ("projector_width", "x"),
        ("mean", "1 2"),
    ],
)
def test_a_damaged_header_is_a_user_error(tmp_path, key, value):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(), 16, 1), path)
    header, tensors = header_and_tensors(path)
    write_tensors(path, tensors, {**header, key: value})
    with pytest.raises(
        UserError, match=r"the header of .*s.safetensors is damaged \(.*\); save the student again"
    ):
        load_student(path)


def test_pretrained_keeps_its_stem_and_uses_its_own_normalization(monkeypatch):
    real = backbones.timm.create_model

    def offline(name, pretrained, **values):
        model = real(name, pretrained=False, **values)
        model.pretrained_cfg.update(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
        return model

    monkeypatch.setattr(backbones.timm, "create_model", offline)
    student = build_student(config(init="pretrained"), 16, 0)
    assert student.spec.stem == "original"
    assert student.normalization == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert build_student(config(), 16, 0).normalization == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )


def test_pretrained_weights_that_do_not_exist_or_can_not_be_fetched_are_user_errors(monkeypatch):
    with pytest.raises(UserError, match="timm has no weights for efficientnet_b6"):
        build_student(config(backbone="efficientnet_b6", init="pretrained"), 16, 0)

    def unreachable(name, pretrained, **values):
        raise OSError("no route\nto host")

    monkeypatch.setattr(backbones.timm, "create_model", unreachable)
    with pytest.raises(
        UserError, match=r"weights of student.backbone test_resnet can't be fetched \(no route\)"
    ):
        build_student(config(init="pretrained"), 16, 0)


def test_a_student_in_a_bucket_is_read_without_fsspec_s_package_for_it(
    tmp_path, bucket, monkeypatch
):
    def no_package(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("beamclip.students.build.fsspec.open_local", no_package)
    saved = build_student(config(), 16, 0)
    save_student(saved, bucket / "student.safetensors")
    fetched = build_student(config(init="s3://bucket/student.safetensors"), 16, 1)
    assert torch.equal(weights(fetched.backbone), weights(saved.backbone))
    with pytest.raises(UserError, match=r"student.init http://x/y can't be fetched \(Install"):
        build_student(config(init="http://x/y"), 16, 1)
    with pytest.raises(UserError, match=r"student.init s3://bucket/none can't be fetched"):
        build_student(config(init="s3://bucket/none"), 16, 1)


@pytest.mark.parametrize(("objective", "projected"), [("csm", True), ("simclr", False)])
def test_a_file_records_whether_its_projector_was_trained(tmp_path, objective, projected):
    student = build_student(config(), 16, 0)
    TrainModule(student, nn.Identity(), built_in_objectives()[objective].requires, nullcontext)
    save_student(student, tmp_path / "s.safetensors")
    assert projector_was_trained(tmp_path / "s.safetensors") is projected
    save_student(load_student(tmp_path / "s.safetensors"), tmp_path / "again.safetensors")
    assert projector_was_trained(tmp_path / "again.safetensors") is projected


def test_a_file_of_an_earlier_version_does_not_record_it_and_still_loads(tmp_path):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(), 16, 0), path)
    header, tensors = header_and_tensors(path)
    del header["projected"]
    write_tensors(path, tensors, header)
    assert projector_was_trained(path) is None
    assert all(part.requires_grad for part in load_student(path).parameters())


@pytest.mark.parametrize("read", [projector_was_trained, training_cost_of])
def test_reading_the_header_of_another_file_is_a_user_error(tmp_path, read):
    (tmp_path / "s.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"s.safetensors can't be read as a student's safetensors file"
    ):
        read(tmp_path / "s.safetensors")
