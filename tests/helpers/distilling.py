"""What the tests of distillation share: embeddings, the equations of its parts in plain Python, and a student of one layer."""

import math

import torch
from torch import nn

from beamclip.objectives import LossInputs
from helpers.gloo import in_processes


def embeddings(images=8, width=16, seed=0, dtype=torch.float32):
    """student, teacher; the same whenever called."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, width, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(2)
    ]


def cosine(x, y):
    """Of two lists."""
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def distribution(logits):
    """Softmax of a list."""
    weights = [math.exp(one - max(logits)) for one in logits]
    return [weight / sum(weights) for weight in weights]


def kl(p, q):
    """KL(p || q) of two lists."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_kl(student, teacher, columns, tau_t, tau_s):
    """mean KL between both sides' softmaxes over the columns, one image at a time; all are lists of lists."""
    each = [
        kl(
            distribution([cosine(t, c) / tau_t for c in columns]),
            distribution([cosine(s, c) / tau_s for c in columns]),
        )
        for s, t in zip(student, teacher, strict=True)
    ]
    return sum(each) / len(each)


def layer(width=16):
    """A student: the same weights whenever called."""
    made = nn.Linear(width, width)
    made.load_state_dict(
        {"weight": torch.eye(width).roll(1, 0) + 0.1, "bias": torch.linspace(-1, 1, width)}
    )
    return made


def share(rank, count, step, images=8):
    """What one of `count` workers is shown of a step."""
    student, teacher = embeddings(images, seed=step)
    clusters = torch.arange(images) * (step + 3) % 5
    mine = slice(rank * images // count, (rank + 1) * images // count)
    student, teacher, clusters = student[mine], teacher[mine], clusters[mine]
    return LossInputs(
        len(student), student, student, teachers=(teacher,), clusters=clusters, epoch=step / 4
    )


def trained(rank, count, build, steps=4):
    """Train the layer with SGD. Returns the loss of each step, all gradients of the last one, and the objective's state."""
    torch.manual_seed(0)
    objective, network, losses = build(), layer(), []
    network = nn.parallel.DistributedDataParallel(network) if count > 1 else network
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    for step in range(steps):
        seen = share(rank, count, step)
        seen.embeddings = network(seen.features)
        optimiser.zero_grad()
        loss = objective(seen)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, [p.grad for p in network.parameters()], objective.state_dict()


def check_two_workers(build):
    """Two workers with half a batch each are one with all of it: losses on average, gradients, queues."""
    losses, gradients, state = trained(0, 1, build)
    both = in_processes(2, trained, build)
    means = [(a + b) / 2 for a, b in zip(both[0][0], both[1][0], strict=True)]
    torch.testing.assert_close(means, losses, rtol=1e-4, atol=1e-6)
    assert both[0][0] != both[1][0]
    for _, theirs, kept in both:
        torch.testing.assert_close(theirs, gradients, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(kept, state)


def check_gradient(objective, seen):
    """The gradient with respect to the embeddings is the derivative. The objective is left in eval mode and fp64."""
    objective = objective.double().eval()

    def loss(student):
        seen.embeddings = student
        return objective(seen)["loss"]

    assert seen.embeddings.dtype == torch.float64
    assert torch.autograd.gradcheck(loss, seen.embeddings.detach().requires_grad_())


def check_precision(objective):
    """In eval mode, bf16 embeddings cost what their rounding costs, and an autocast region changes no bit."""
    student, teacher = embeddings(64, seed=5)
    objective = objective.eval()
    half = objective.match(student.bfloat16(), teacher.bfloat16())["loss"]
    full = objective.match(student, teacher)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.match(student, teacher)["loss"], full)
