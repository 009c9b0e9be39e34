import stat
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from torch import nn

from beamclip.config import REQUIREMENTS, StudentConfig, UserError
from beamclip.students import (
    backbones,
    build_student,
    check_backbone,
    load_student,
    save_student,
    spent_on,
    was_projected,
    write_tensors,
)
from beamclip.training.setup import TrainModule


def config(**values):
    return StudentConfig(
        **({"backbone": "test_resnet", "image_size": 32, "projector_width": 24} | values)
    )


def weights(part):
    return torch.cat([p.detach().flatten() for p in part.parameters()])


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_features_are_the_backbone_s_and_embeddings_the_projector_s(images):
    student = build_student(config(), 16, 0).eval()
    assert student.features(images).shape == (4, 96)
    assert student(images).shape == (4, 16)
    assert torch.equal(student(images), student.projector(student.backbone(images)))


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed():
    torch.manual_seed(5)
    first = build_student(config(), 16, 0)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(6)
    assert torch.equal(weights(build_student(config(), 16, 0)), weights(first))
    assert not torch.equal(weights(build_student(config(), 16, 1)), weights(first))


def test_torch_draws_every_layer_as_where_it_is_made_and_leaves_no_block_out():
    """A ResNet of timm's begins with blocks whose last norm is all zeros."""
    resnet = {"backbone": "resnet18", "image_size": 32}
    usual, drawn = (
        build_student(config(**resnet, drawn=how), 16, 0).backbone for how in ("timm", "torch")
    )
    assert not usual.layer1[0].bn2.weight.any() and (drawn.layer1[0].bn2.weight == 1).all()
    largest = 1 / (64 * 9) ** 0.5  # of torch's convolutions: uniform, up to 1 / sqrt(fan in)
    assert 0.99 * largest < drawn.layer1[0].conv1.weight.abs().max() <= largest
    assert drawn.conv1.weight.shape == (64, 3, 3, 3)  # the small stem's, drawn so as well
    linear, other = (
        build_student(config(**resnet, drawn="torch", projector=kind), 16, seed)
        for kind, seed in (("linear", 0), ("mlp", 1))
    )
    assert torch.equal(weights(drawn), weights(linear.backbone)) and not torch.equal(
        weights(drawn), weights(other.backbone)
    )


def test_the_backbone_drawn_does_not_depend_on_the_projector():
    mlp, linear = build_student(config(), 16, 0), build_student(config(projector="linear"), 8, 0)
    assert torch.equal(weights(mlp.backbone), weights(linear.backbone))
    assert isinstance(linear.projector, nn.Linear)
    assert linear.projector.out_features == 8


@pytest.mark.parametrize(("backbone", "norms"), [("test_resnet", 1), ("test_vit", 0)])
def test_the_projector_has_batch_statistics_exactly_where_the_backbone_has(backbone, norms):
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
    between = (
        [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        if normed
        else [nn.Linear, nn.ReLU, nn.Linear]
    )
    assert kinds == 2 * between
    save_student(student, tmp_path / "s.safetensors")
    back = load_student(tmp_path / "s.safetensors")
    assert back.spec.projector == "mlp4"
    assert torch.equal(weights(back.projector), weights(student.projector))


def test_without_batch_statistics_half_a_batch_gives_the_same_embeddings(images):
    student = build_student(config(backbone="test_vit"), 16, 0).train()
    halves = torch.cat([student(images[:2]), student(images[2:])])
    torch.testing.assert_close(student(images), halves)


@pytest.mark.parametrize(
    ("backbone", "stem", "size", "side"),
    [
        ("resnet18", "auto", 32, 4), ("resnet18", "never", 32, 1), ("resnet18", "auto", 64, 8), ("resnet18", "auto", 65, 3),
        ("resnet18", "always", 96, 12), ("test_resnet", "auto", 32, 2), ("test_resnet", "never", 32, 1),
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


def test_a_backbone_without_a_known_stem_is_left_alone_or_refused():
    assert build_student(config(backbone="test_convnext"), 8, 0).spec.stem == "original"
    with pytest.raises(
        UserError, match=r"small_image_stem is always, but only timm's ResNets .* test_convnext"
    ):
        build_student(config(backbone="test_convnext", small_image_stem="always"), 8, 0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet81", "resnet81 is not a timm model; did you mean resnet18"),
        ("resnet18.a1_in2k", "did you mean resnet18.a1_in1k"),
        ("hf-hub:a/b", "not a timm model"),
    ],
)
def test_an_unknown_backbone_is_named_with_its_neighbours(name, sentence):
    with pytest.raises(UserError, match=sentence):
        check_backbone(name)


def test_known_backbones_pass():
    known = ["resnet18", "resnet18.a1_in1k"]
    assert [check_backbone(name) for name in known] == [
        None,
        None,
    ]  # which raises where it does not know one


def test_images_too_small_for_a_backbone_are_a_sentence():
    with pytest.raises(
        UserError, match=r"inception_v3 can't take images of student\.image_size 32 px"
    ):
        build_student(config(backbone="inception_v3"), 8, 0)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_saved_student_comes_back_from_its_file_alone(tmp_path, images, backbone):
    student = build_student(config(backbone=backbone), 16, 3)
    student(images)  # moves the batch statistics, which must be saved too
    save_student(student, tmp_path / "student.safetensors", {"run": "a", "backbone": "a lie"})
    state = torch.random.get_rng_state()
    back = load_student(tmp_path / "student.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert back.spec == student.spec
    assert not back.training
    assert torch.equal(back(images), student.eval()(images))


def test_the_file_is_readable_by_all_and_leaves_nothing_beside_it(tmp_path):
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
    same, wider = (build_student(config(init=str(path)), width, 2) for width in (16, 17))
    assert same.spec.stem == "original"
    assert same.training
    assert torch.equal(weights(same), weights(old))
    assert torch.equal(weights(wider.backbone), weights(old.backbone))
    assert not torch.equal(weights(wider.projector[0]), weights(old.projector[0]))
    assert wider.spec.width == 17


@pytest.mark.parametrize(
    ("values", "sentence"),
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
def test_init_from_another_kind_of_student_is_refused(tmp_path, values, sentence):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(backbone="test_vit"), 16, 1), path)
    with pytest.raises(UserError, match=sentence):
        build_student(config(init=str(path), **values), 16, 0)


def test_files_that_are_no_students_are_sentences(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, sentence in (
        ("missing", "can't be read"),
        ("cut", "can't be read"),
        ("other", "is not a student saved by this version"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_student(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="can't be written"):
        save_student(build_student(config(), 16, 0), tmp_path / "nowhere" / "s.safetensors")


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
def test_a_header_of_no_student_is_a_sentence(tmp_path, key, value):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(), 16, 1), path)
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    write_tensors(path, tensors, {**header, key: value})
    with pytest.raises(
        UserError, match=r"the header of .*s.safetensors is damaged \(.*\); save the student again"
    ):
        load_student(path)


def test_pretrained_keeps_its_stem_and_brings_its_normalisation(monkeypatch):
    real = backbones.timm.create_model

    def offline(name, pretrained, **values):
        model = real(name, pretrained=False, **values)
        model.pretrained_cfg.update(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
        return model

    monkeypatch.setattr(backbones.timm, "create_model", offline)
    student = build_student(config(init="pretrained"), 16, 0)
    assert student.spec.stem == "original"
    assert student.normalisation == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert build_student(config(), 16, 0).normalisation == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )


def test_pretrained_weights_that_do_not_exist_or_can_not_be_fetched_are_sentences(monkeypatch):
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
    before = build_student(config(), 16, 0)
    save_student(before, bucket / "student.safetensors")
    again = build_student(config(init="s3://bucket/student.safetensors"), 16, 1)
    assert torch.equal(weights(again.backbone), weights(before.backbone))
    with pytest.raises(UserError, match=r"student.init http://x/y can't be fetched \(Install"):
        build_student(config(init="http://x/y"), 16, 1)
    with pytest.raises(UserError, match=r"student.init s3://bucket/none can't be fetched"):
        build_student(config(init="s3://bucket/none"), 16, 1)


@pytest.mark.parametrize(("objective", "projected"), [("csm", True), ("simclr", False)])
def test_a_file_says_whether_its_student_was_trained_to_embed_where_its_teacher_does(
    tmp_path, objective, projected
):
    student = build_student(config(), 16, 0)
    TrainModule(student, nn.Identity(), REQUIREMENTS[objective], nullcontext)
    save_student(student, tmp_path / "s.safetensors")
    assert was_projected(tmp_path / "s.safetensors") is projected
    save_student(load_student(tmp_path / "s.safetensors"), tmp_path / "again.safetensors")
    assert was_projected(tmp_path / "again.safetensors") is projected


def test_a_file_of_an_earlier_version_says_nothing_of_it_and_is_read_all_the_same(tmp_path):
    path = tmp_path / "s.safetensors"
    save_student(build_student(config(), 16, 0), path)
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    write_tensors(
        path, tensors, {key: value for key, value in header.items() if key != "projected"}
    )
    assert was_projected(path) is None
    assert all(part.requires_grad for part in load_student(path).parameters())


@pytest.mark.parametrize("read", [was_projected, spent_on])
def test_a_file_that_is_no_student_s_says_so_whatever_is_asked_of_it(tmp_path, read):
    (tmp_path / "s.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"s.safetensors can't be read as a student's safetensors file"
    ):
        read(tmp_path / "s.safetensors")
