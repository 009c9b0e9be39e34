import shutil
from pathlib import Path

import pytest
import torch

from beamclip.config import TeacherConfig, TowerConfig, UserError
from beamclip.preparation import context as module
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.throughput import Throughput
from beamclip.stores import StoreDamaged


@pytest.fixture
def opened(monkeypatch):
    """`opened(name)`: a list that grows with every call of a function of the context's module."""

    def count(name):
        calls, original = [], getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *arguments, **options: calls.append(1) or original(*arguments, **options),
        )
        return calls

    return count


def test_a_source_is_opened_once_for_all_splits(data_config, tmp_path, opened):
    calls = opened("open_source")
    context = PreparationContext(tmp_path)
    for values in (
        {},
        {"train_images": 12},
        {"val_fraction": 0.5},
        {"split_seed": 3},
        {"max_unreadable_fraction": 0.3},
    ):
        context.source(data_config.model_copy(update=values))
    assert len(calls) == 1
    context.source(data_config.model_copy(update={"image_size": 16}))
    assert len(calls) == 2


def test_images_are_packed_once_in_the_folder_of_stores(data_config, tmp_path, opened):
    calls = opened("pack_source")
    context = PreparationContext(tmp_path)
    path = context.packed_path(data_config)
    assert path.parent == tmp_path / "packed" and not path.exists()
    packed = context.packed(data_config)
    assert (
        context.packed(
            data_config.model_copy(
                update={"train_images": 12, "val_fraction": 0.5, "split_seed": 3}
            )
        )
        is packed
    )
    assert len(calls) == 1 and packed.store.path == path
    assert context.packed_path(data_config.model_copy(update={"encoding": "jpeg"})) != path


def test_a_stricter_limit_for_unreadable_images_is_checked_again(data_config, tmp_path):
    folder = shutil.copytree(data_config.path, tmp_path / "images")
    (folder / "train" / "moss" / "00.png").write_bytes(b"no image")
    config = data_config.model_copy(update={"path": str(folder)})
    context = PreparationContext(tmp_path / "stores")
    assert len(context.packed(config)) == 191
    with pytest.raises(UserError, match="1 of 192 images"):
        context.packed(config.model_copy(update={"max_unreadable_fraction": 0.0}))


def test_settings_unrelated_to_the_weights_do_not_load_a_teacher_again(
    teacher_folder, other_folder, tmp_path, opened
):
    calls = opened("load_teacher")
    context = PreparationContext(tmp_path)
    tower = TowerConfig(model=f"local-dir:{teacher_folder}")
    first = context.teacher(tower)
    assert (
        context.teacher(TeacherConfig(model=tower.model, actors=(1, 1))) is first
        and len(calls) == 1
    )
    assert (
        context.teacher(TowerConfig(model=f"local-dir:{other_folder}")) is not first
        and len(calls) == 2
    )


def test_throughput_is_measured_once_for_the_same_weights(teacher_folder, tmp_path):
    measured = []
    context = PreparationContext(
        tmp_path,
        measure_throughput=lambda teacher: measured.append(teacher.name) or Throughput(8, 0.5),
    )
    towers = [
        TowerConfig(model=f"local-dir:{shutil.copytree(teacher_folder, tmp_path / name)}")
        for name in ("a", "b")
    ]
    assert [context.throughput(context.teacher(tower)) for tower in towers] == [
        Throughput(8, 0.5)
    ] * 2
    assert measured == ["a"]


@pytest.mark.parametrize(
    ("on_workers", "configured", "in_config", "used"),
    [
        # None: this process does the work.
        (None, "auto", "auto", torch.float32),
        ("bf16", "auto", "bf16", torch.bfloat16),
        ("fp32", "auto", "fp32", torch.float32),
        ("bf16", "fp32", "fp32", torch.float32),
        ("fp32", "bf16", "bf16", torch.bfloat16),
    ],
)
def test_auto_precision_is_chosen_by_the_machines_that_run_the_teacher(
    teacher_folder, tmp_path, on_workers, configured, in_config, used
):
    """Otherwise a process without a GPU would compute another key than the actors with one."""
    teacher = PreparationContext(tmp_path, precision=on_workers).teacher(
        TowerConfig(model=f"local-dir:{teacher_folder}", precision=configured)
    )
    assert (teacher.config.precision, teacher.precision) == (in_config, used)


@pytest.fixture
def trained(monkeypatch, teacher_folder):
    """A list that grows whenever the demo's teacher is trained; the tiny one replaces it."""
    times = []

    def train(folder, progress):
        times.append(folder)
        for path in Path(teacher_folder).iterdir():
            shutil.copy(path, folder)

    monkeypatch.setattr("beamclip.teachers.demo.train_demo_teacher", train)
    return times


def test_the_demo_s_teacher_is_trained_once_and_then_loaded_like_any_other(
    teacher_folder, tmp_path, trained
):
    path = PreparationContext(tmp_path).demo_teacher_path()
    assert not path.exists()
    first = PreparationContext(tmp_path, precision="bf16").teacher(
        TowerConfig(model="demo", batch_size=9)
    )
    again = PreparationContext(tmp_path).teacher(TowerConfig(model="demo"))
    assert len(trained) == 1 and path.exists()
    assert (first.name, again.name) == ("demo", "demo")
    # Other processes load it by this config.
    assert (first.config.model, first.config.batch_size) == (f"local-dir:{path}", 9)
    assert first.precision == torch.bfloat16
    plain = PreparationContext(tmp_path).teacher(TowerConfig(model=f"local-dir:{teacher_folder}"))
    assert again.fingerprint == plain.fingerprint


def test_a_damaged_demo_teacher_is_a_user_error_and_trained_again_only_with_repair(
    tmp_path, trained
):
    tower = TowerConfig(model="demo")
    PreparationContext(tmp_path).teacher(tower)
    weights = PreparationContext(tmp_path).demo_teacher_path() / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(StoreDamaged, match="open_clip_model.safetensors has .* bytes instead of"):
        PreparationContext(tmp_path).teacher(tower)
    assert len(trained) == 1
    PreparationContext(tmp_path, repair=True).teacher(tower)
    assert len(trained) == 2
