import io

import pytest
import torch
import torch.nn.functional as F
from helpers.distilling import embeddings, share
from lightly.models.modules.memory_bank import MemoryBankModule
from sklearn.metrics import log_loss

from beamclip.config import ObjectiveConfig, UserError
from beamclip.objectives import LossContext, build_objective
from beamclip.objectives.queue import Queue, divergence, queue_length

OVER_QUEUES = ("seed", "compress", "image_queue")


def build(name, queue=None, train_images=100):
    return build_objective(
        ObjectiveConfig.model_validate({"name": name, name: {"queue": queue}}),
        LossContext(8, 16, train_images, 7),
    )


def batches(count, size, width=3):
    return [torch.full((size, width), float(number)) for number in range(count)]


def test_a_full_queue_drops_its_oldest_rows():
    queue = Queue(5, 3)
    held = []
    for rows in batches(4, 2):
        queue.push(rows)
        held.append(queue.rows[:, 0].tolist())
    assert held == [[0, 0], [1, 1, 0, 0], [2, 2, 1, 1, 0], [3, 3, 2, 2, 1]]


def test_the_first_rows_of_a_batch_longer_than_the_queue_are_kept():
    queue = Queue(3, 1)
    queue.push(torch.arange(5.0)[:, None])
    assert queue.rows[:, 0].tolist() == [0, 1, 2]


def test_the_queue_equals_lightly_s_memory_bank():
    ours, theirs = Queue(12, 16), MemoryBankModule((12, 16), feature_dim_first=False)
    for seed in range(5):
        rows, _ = embeddings(4, seed=seed)
        ours.push(rows)
        theirs(rows, update=True)
    assert sorted(ours.rows.tolist()) == sorted(theirs.bank.tolist())


def test_pushing_does_not_change_rows_that_a_backward_pass_needs():
    queue = Queue(4, 16)
    for seed in range(3):
        student, teacher = embeddings(4, seed=seed)
        student.requires_grad_()
        loss = (student @ (queue.rows if seed else teacher).T).sum()
        queue.push(teacher)
        loss.backward()  # raises if a saved tensor was overwritten


def test_the_state_of_a_half_full_queue_is_restored_from_a_file():
    queue, file = Queue(8, 16), io.BytesIO()
    queue.push(embeddings(5)[0])
    torch.save(queue.state_dict(), file)
    file.seek(0)
    fresh = Queue(8, 16)
    fresh.push(embeddings(2, seed=1)[0])  # a forward pass before the checkpoint is loaded
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.rows, queue.rows)
    fresh.push(embeddings(5, seed=2)[0])
    assert torch.equal(fresh.rows, torch.cat([embeddings(5, seed=2)[0], queue.rows[:3]]))


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_an_objective_continues_from_its_state_exactly(name):
    straight, resumed = build(name, 20), build(name, 20)
    for step in range(2):
        straight(share(0, 1, step))
    resumed.load_state_dict(straight.state_dict())
    for step in range(2, 5):
        assert torch.equal(straight(share(0, 1, step))["loss"], resumed(share(0, 1, step))["loss"])
    assert torch.equal(straight.queue.rows, resumed.queue.rows)


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_rows_have_unit_length_and_are_added_only_in_training(name):
    objective = build(name, 20).eval()
    objective(share(0, 1, 0))
    assert objective.queue.rows.shape == (0, 16)
    objective.train()(share(0, 1, 0))
    torch.testing.assert_close(objective.queue.rows, F.normalize(share(0, 1, 0).teachers[0]))
    assert not objective.queue.rows.requires_grad


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_no_step_waits_for_the_device(name, monkeypatch):
    objective, seen = build(name, 20), share(0, 1, 0)
    seen.embeddings.requires_grad_()

    def refuse(*arguments):
        raise AssertionError("a number was read off a tensor")

    for reader in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, reader, refuse)
    for _ in range(3):
        objective(seen)["loss"].backward()
    with pytest.raises(AssertionError, match="read off"):
        bool(torch.ones(()))


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_a_perfect_student_at_equal_temperatures_has_no_gradient(name):
    objective = build(name, 20)
    objective.teacher_temperature = objective.student_temperature = 0.1
    for step in range(4):
        seen = share(0, 1, step)
        seen.embeddings = (2 * seen.teachers[0]).requires_grad_()
        objective(seen)["loss"].backward()
        assert seen.embeddings.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_only_the_first_of_several_teachers_is_compared_and_queued(name):
    one, several = build(name, 20), build(name, 20)
    for step in range(2):
        seen = share(0, 1, step)
        loss = one(seen)["loss"]
        seen.teachers = (*seen.teachers, torch.ones(8, 5))
        assert torch.equal(several(seen)["loss"], loss)
    assert torch.equal(several.queue.rows, one.queue.rows)


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_minimizing_the_loss_brings_a_student_near_its_teacher(name):
    objective, seen, losses = build(name, 100), share(0, 1, 0), []
    seen.embeddings = seen.embeddings.clone().requires_grad_()
    before = torch.cosine_similarity(seen.embeddings, seen.teachers[0]).mean().item()
    optimizer = torch.optim.Adam([seen.embeddings], 0.05)
    for _ in range(40):
        losses.append(objective(seen)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[13]  # the queue is full from here on
    assert torch.cosine_similarity(seen.embeddings, seen.teachers[0]).mean() > before + 0.3


def test_divergence_is_scikit_learn_s_log_loss_minus_the_teacher_s_entropy():
    student, teacher = embeddings(6, 4, dtype=torch.float64)
    p, q = teacher.softmax(-1), student.softmax(-1)
    labels = [
        k for _ in range(6) for k in range(4)
    ]  # each image once per class, weighted by the teacher's probability
    rows = q.repeat_interleave(4, 0)
    crossed = log_loss(labels, rows.numpy(), sample_weight=p.flatten().numpy(), labels=[0, 1, 2, 3])
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(
        divergence(student, teacher), torch.tensor(crossed, dtype=torch.float64) - entropy
    )


@pytest.mark.parametrize(
    ("name", "authors"), [("seed", 65_536), ("compress", 128_000), ("image_queue", 8_192)]
)
def test_its_length_is_the_authors_or_the_number_of_images_or_as_set(name, authors):
    assert build(name, None, 10**6).queue.length == authors
    assert build(name, None, 50).queue.length == 50
    assert build(name, 50, 50).queue.length == 50
    assert build(name, 7, 50).queue.length == 7


@pytest.mark.parametrize("name", OVER_QUEUES)
def test_a_queue_longer_than_the_data_is_a_user_error(name):
    with pytest.raises(
        UserError,
        match=(
            rf"^objective\.{name}\.queue is 51, but there are 50 training images; "
            rf"give 50 or fewer, or null$"
        ),
    ):
        build(name, 51, 50)
    assert queue_length(name, None, 51, 50) == 50
