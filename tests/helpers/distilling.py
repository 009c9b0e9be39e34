"""Helpers for the tests of distillation: embeddings, equations in plain Python, a tiny student."""

import math

import torch
from torch import nn

from beamclip.objectives import LossInputs
from helpers.gloo import in_processes


def embeddings(images=8, width=16, seed=0, dtype=torch.float32):
    """Return student and teacher embeddings, the same in every call."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, width, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(2)
    ]


def cosine(x, y):
    """Return the cosine of two lists."""
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def distribution(logits):
    """Return the softmax of a list."""
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def kl(p, q):
    """Return KL(p || q) of two lists."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_kl(student, teacher, columns, tau_t, tau_s):
    """Return the mean KL of both sides' softmaxes over the columns, one image at a time.

    All arguments but the temperatures are lists of lists.
    """
    divergences = [
        kl(
            distribution([cosine(t, c) / tau_t for c in columns]),
            distribution([cosine(s, c) / tau_s for c in columns]),
        )
        for s, t in zip(student, teacher, strict=True)
    ]
    return sum(divergences) / len(divergences)


def layer(width=16):
    """Return a student of one layer, with the same weights in every call."""
    linear = nn.Linear(width, width)
    linear.load_state_dict(
        {"weight": torch.eye(width).roll(1, 0) + 0.1, "bias": torch.linspace(-1, 1, width)}
    )
    return linear


def share(rank, count, step, images=8):
    """Return the inputs of one of `count` workers in a step."""
    student, teacher = embeddings(images, seed=step)
    clusters = torch.arange(images) * (step + 3) % 5
    rows = slice(rank * images // count, (rank + 1) * images // count)
    student, teacher, clusters = student[rows], teacher[rows], clusters[rows]
    return LossInputs(
        len(student), student, student, teachers=(teacher,), clusters=clusters, epoch=step / 4
    )


def trained(rank, count, build, steps=4):
    """Train the layer with SGD.

    Returns the loss of each step, the gradients of the last step and the objective's state.
    """
    torch.manual_seed(0)
    objective = build()
    network = layer()
    losses = []
    network = nn.parallel.DistributedDataParallel(network) if count > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for step in range(steps):
        inputs = share(rank, count, step)
        inputs.embeddings = network(inputs.features)
        optimizer.zero_grad()
        loss = objective(inputs)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.grad for p in network.parameters()], objective.state_dict()


def check_two_workers(build):
    """Check that two workers with half a batch each equal one worker with the whole batch.

    Compared are the mean of their losses, the gradients and the queues.
    """
    losses, gradients, state = trained(0, 1, build)
    workers = in_processes(2, trained, build)
    means = [(a + b) / 2 for a, b in zip(workers[0][0], workers[1][0], strict=True)]
    torch.testing.assert_close(means, losses, rtol=1e-4, atol=1e-6)
    assert workers[0][0] != workers[1][0]
    for _, worker_gradients, worker_state in workers:
        torch.testing.assert_close(worker_gradients, gradients, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(worker_state, state)


def check_gradient(objective, inputs):
    """Check the gradient with respect to the student's embeddings numerically.

    Leaves the objective in eval mode and fp64.
    """
    objective = objective.double().eval()

    def loss(student):
        inputs.embeddings = student
        return objective(inputs)["loss"]

    assert inputs.embeddings.dtype == torch.float64
    assert torch.autograd.gradcheck(loss, inputs.embeddings.detach().requires_grad_())


def check_precision(objective):
    """Check that bf16 embeddings cost only their rounding and that autocast changes no bit.

    The objective is put into eval mode.
    """
    student, teacher = embeddings(64, seed=5)
    objective = objective.eval()
    half = objective.match(student.bfloat16(), teacher.bfloat16())["loss"]
    full = objective.match(student, teacher)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.match(student, teacher)["loss"], full)
