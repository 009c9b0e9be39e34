"""Errors in data and teacher that only the preparation can find.

It runs in a process of the cluster, and its errors reach the user unchanged
(tests/distributed/test_sweeps.py has one through Ray).
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import tiny

from beamclip.config import UserError
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext


@pytest.fixture
def refused(preset, tmp_path):
    """`refused(data__path=…)` returns the error of preparing an experiment with these settings."""

    def call(**values):
        experiment = tiny.experiment(preset, tmp_path / "runs", **values)
        with pytest.raises(UserError) as caught:
            prepare(experiment, PreparationContext(tmp_path / "stores"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return call


@pytest.fixture
def tree(images, tmp_path):
    """A copy of the images to break."""
    return shutil.copytree(images, tmp_path / "tree")


def test_a_folder_that_is_missing_or_empty_is_named(refused, tmp_path):
    assert f"data.path {tmp_path}/none does not exist" in refused(data__path=f"{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty" in refused(data__path=f"{tmp_path}/empty")
    assert "has no parquet, tar, CIFAR or train/" in refused(
        data__path=f"{tmp_path}/empty", data__source="auto"
    )
    assert tiny.left_behind(tmp_path / "stores") == []


def test_a_single_class_and_a_missing_test_split_are_named(refused, tree, tmp_path):
    shutil.rmtree(tree / "test")
    assert "has no test split" in refused(data__path=str(tree))
    tiny.make_images(tmp_path / "one", classes=1)
    assert "has only one class (blue)" in refused(data__path=f"{tmp_path}/one")


def test_broken_images_above_the_threshold_are_counted_and_the_first_is_named(
    refused, tree, tmp_path
):
    for number in range(5):
        (tree / "train" / "red" / f"{number}.jpg").write_bytes(b"no image")
    says = refused(data__path=str(tree))
    assert "train/red/0.jpg can't be read" in says
    assert "5 of 200 images" in says
    assert not list((tmp_path / "stores").rglob("manifest.json"))


def test_below_the_threshold_a_stray_file_is_left_out_and_listed(preset, tree, tmp_path):
    (tree / "train" / "red" / "notes.txt").write_text("not an image")
    experiment = tiny.experiment(preset, tmp_path / "runs", data__path=str(tree))
    assets = prepare(experiment, PreparationContext(tmp_path / "stores"))
    assert "notes.txt" in (Path(assets.packed) / "bad.csv").read_text()
    assert assets.facts.train_images == 4 * 36


def test_parquet_without_its_columns_is_named(refused, tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / f"{split}-0.parquet")
    assert "has no column 'image', only picture, label" in refused(
        data__path=str(tmp_path), data__source="parquet"
    )


def test_fewer_class_names_than_labels_are_counted(refused, images, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red\nblue\n")
    assert f"data.class_names {names} has 2 class names for 4 labels" in refused(
        data__class_names=str(names)
    )


def test_more_anchors_than_classes_and_a_batch_larger_than_the_data_are_named(refused):
    assert "anchors.count 5 is more than the 4 class names" in refused(anchors__count=5)
    assert "optimizer.batch_size 4096 is more than the 144 training images" in refused(
        optimizer__batch_size=4096
    )


def test_an_unknown_backbone_is_found_before_anything_is_built(refused, tmp_path):
    assert "student.backbone resnet1888 is not a timm model; did you mean" in refused(
        student__backbone="resnet1888"
    )
    assert not (tmp_path / "stores").exists()


def test_an_unknown_teacher_is_named_with_its_neighbors(refused, color_teacher, tmp_path):
    assert "ViT-B-33 is not an open_clip model; did you mean ViT-B-32" in refused(
        teacher__model="ViT-B-33"
    )
    assert "teacher.pretrained is missing for ViT-B-32" in refused(teacher__model="ViT-B-32")
    says = refused(teacher__model="ViT-B-32", teacher__pretrained="opnai")
    assert "teacher.pretrained opnai is not a tag of ViT-B-32; did you mean openai" in says
    near = str(color_teacher).replace("tiny", "tinny")
    assert "which does not exist; did you mean tiny?" in refused(teacher__model=f"local-dir:{near}")
    assert not (tmp_path / "stores" / "embeddings").exists()
