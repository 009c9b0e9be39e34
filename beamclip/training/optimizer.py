"""Optimisers from torch and timm, and the schedule."""

import math
from collections.abc import Iterable
from typing import Any

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from beamclip.config import OptimiserConfig

# timm's factory gives torch's own SGD (with Nesterov off) and AdamW, and timm's LARS with the trust ratio skipped where there is
# no weight decay: biases and norms, as SimCLR and SwAV do.
_TIMM_NAMES = {"sgd": "momentum", "adamw": "adamw", "lars": "lars"}


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices and kernels with weight decay; without it norms, biases, and what a timm model says must not decay
    (class tokens, tables of positions)."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in modules:
        listed = getattr(module, "no_weight_decay", tuple)
        for group in param_groups_weight_decay(module, 1.0, no_weight_decay_list=listed()):
            (decayed if group["weight_decay"] else spared).extend(group["params"])
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def build_optimiser(config: OptimiserConfig, modules: Iterable[nn.Module]) -> Optimizer:
    """The optimiser a config names, over all trainable parameters of these modules. `lr` is used as it is."""
    modules = list(modules)
    groups = decay_groups(modules, config.weight_decay)
    if config.decay == "all":
        groups = [{**group, "weight_decay": config.weight_decay} for group in groups]
    optimiser: Optimizer = create_optimizer_v2(
        groups,
        opt=_TIMM_NAMES[config.name],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return optimiser


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero (SGDR, arXiv 1608.03983).

    step < W:  (step + 1) / W          else:  (1 + cos(π (step − W) / (T − W))) / 2
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (
        1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps))
    )


def build_schedule(config: OptimiserConfig, optimiser: Optimizer, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of every step; call `.step()` once a step."""
    warmup, total = round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    return LambdaLR(optimiser, lambda step: lr_factor(step, warmup, total))
