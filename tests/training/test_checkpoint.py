import pytest
import torch
from safetensors.torch import load_file

from beamclip.config import OptimizerConfig, StudentConfig
from beamclip.objectives import CrossModalSimilarityMatching
from beamclip.students import build_student, load_student
from beamclip.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from beamclip.training.optimizer import build_optimizer, build_schedule


def parts(seed, name="adamw"):
    """student, objective, optimizer, schedule."""
    student = build_student(
        StudentConfig(backbone="test_resnet", image_size=32, projector_width=24), 16, seed
    )
    objective = CrossModalSimilarityMatching(
        [torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))], [0.1], 0.1
    )
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1, epochs=3)
    optimizer = build_optimizer(config, [student, objective])
    return student, objective, optimizer, build_schedule(config, optimizer, 4)


def train(student, objective, optimizer, schedule, steps=2):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = torch.randn(4, 3, 32, 32, generator=generator)
        teacher = torch.randn(4, 16, generator=generator)
        optimizer.zero_grad()
        objective.match(student(images), teacher)["loss"].backward()
        optimizer.step()
        schedule.step()


def weights(student):
    return student.state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_training_from_a_loaded_checkpoint_equals_uninterrupted_training(tmp_path, name):
    first, second = parts(0, name), parts(1, name)
    # Anchors come from their store, not from the checkpoint.
    second[1].anchors[0].copy_(first[1].anchors[0])
    train(*first)
    save_checkpoint(tmp_path / "saved", *first, Progress(2, 3.5, 7))
    assert load_checkpoint(tmp_path / "saved", *second) == Progress(2, 3.5, 7)
    train(*first)
    train(*second)
    assert same(weights(first[0]), weights(second[0]))
    assert first[3].get_last_lr() == second[3].get_last_lr()


def test_without_the_optimizer_s_state_the_result_differs(tmp_path):
    first, second = parts(0), parts(1)
    second[1].anchors[0].copy_(first[1].anchors[0])
    train(*first)
    save_checkpoint(tmp_path, *first, Progress(1))
    second[0].load_state_dict(load_file(tmp_path / "student.safetensors"))
    train(*first)
    train(*second)
    assert not same(weights(first[0]), weights(second[0]))


def test_the_student_s_file_is_enough_to_load_it(tmp_path):
    saved = parts(0)
    train(*saved)
    save_checkpoint(tmp_path, *saved, Progress(1))
    assert same(weights(load_student(tmp_path / "student.safetensors")), weights(saved[0]))


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def test_the_state_loads_with_weights_only_and_has_no_teacher_or_anchors(tmp_path):
    saved = parts(0)
    train(*saved)
    save_checkpoint(tmp_path, *saved, Progress(1))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.pt", "student.safetensors"]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["objective"] == {}
    shapes = {tuple(p.shape) for p in saved[0].parameters()} | {()}
    assert {tuple(tensor.shape) for tensor in tensors_in(state)} <= shapes
    assert all(
        name.startswith(("backbone.", "projector."))
        for name in load_file(tmp_path / "student.safetensors")
    )
    (anchors,) = saved[1].anchors
    tensors = [*tensors_in(state), *load_file(tmp_path / "student.safetensors").values()]
    assert not any(
        tensor.shape == anchors.shape and torch.allclose(tensor, anchors) for tensor in tensors
    )
