"""Build the optimizer, from torch or timm, and the learning-rate schedule."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from beamclip.config import OptimizerConfig

# timm's factory returns torch's own SGD (without Nesterov) and AdamW, and timm's LARS, which skips
# the trust ratio for parameters without weight decay: biases and norms, as in SimCLR and SwAV.
_TIMM_NAMES = {"sgd": "momentum", "adamw": "adamw", "lars": "lars"}


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: one with weight decay, one without.

    Matrices and kernels decay. Norms, biases and the parameters that a timm model lists in
    `no_weight_decay` (class tokens, position embeddings) do not. Frozen parameters are left out.

    Args:
        modules: modules without common parameters.
        weight_decay: weight decay of the first group.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for module in modules:
        # Most models of timm have this method, other modules don't.
        names_of_module = getattr(module, "no_weight_decay", None)
        names: Collection[str] = names_of_module() if names_of_module is not None else ()
        # Use 1.0 to tell timm's two groups apart, because `weight_decay` itself may be 0.
        groups = param_groups_weight_decay(module, 1.0, no_weight_decay_list=names)
        for group in groups:
            target = decayed if group["weight_decay"] else not_decayed
            target.extend(group["params"])
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]


def build_optimizer(config: OptimizerConfig, modules: Iterable[nn.Module]) -> Optimizer:
    """Build the configured optimizer over all trainable parameters of these modules.

    Args:
        config: settings of the optimizer. `lr` is used as it is, not scaled by the batch size.
        modules: modules without common parameters.
    """
    groups = decay_groups(modules, config.weight_decay)
    if config.decay == "all":
        groups = [{**group, "weight_decay": config.weight_decay} for group in groups]
    optimizer: Optimizer = create_optimizer_v2(
        groups,
        opt=_TIMM_NAMES[config.name],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return optimizer


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of a step as a fraction of `lr`, 0 to 1.

    Linear warm-up over W steps, then half a cosine to zero at step T (SGDR, arXiv 1608.03983):

        step < W:  (step + 1) / W
        else:      (1 + cos(π (step - W) / (T - W))) / 2

    Args:
        step: number of the step, from 0.
        warmup_steps: W.
        total_steps: T.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    # After the last step torch asks for step T. If all steps are warm-up, that would be 0 / 0.
    cosine_steps = max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / cosine_steps))


def build_schedule(config: OptimizerConfig, optimizer: Optimizer, steps_per_epoch: int) -> LambdaLR:
    """Build the schedule of the learning rate; call `.step()` once per training step.

    torch and timm have such schedules too, but these are not bit-identical to this one, whose state
    is in the checkpoints of running sweeps. torch's `CosineAnnealingLR` computes each rate from the
    previous one, which rounds differently. timm's `CosineLRScheduler` reaches `lr` one step later,
    at step W instead of W - 1.

    Args:
        config: `epochs` and `warmup_epochs` are used; `warmup_epochs` may be a fraction.
        optimizer: optimizer whose learning rates are set.
        steps_per_epoch: number of steps per epoch.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    total_steps = config.epochs * steps_per_epoch
    return LambdaLR(optimizer, lambda step: lr_factor(step, warmup_steps, total_steps))
