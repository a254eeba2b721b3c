"""AdamW with its whole state from the start, and the learning rate after so many updates."""

import math

import torch
from torch import Tensor, nn

from isentropic.config import LearnerConfig


def build_optimizer(model: nn.Module, config: LearnerConfig) -> torch.optim.AdamW:
    """Builds AdamW over all parameters that are trained.

    Weight decay is on all of them too, as in the released code of this family of methods.
    """
    trained = trained_parameters(model)
    optimizer = torch.optim.AdamW(
        trained.values(),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    # Made now and not by the first step: a state that does not fit in memory fails at once, and
    # every checkpoint has one.
    for parameter in trained.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that training changes, by name: all, or those of the adapters."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def moments(model: nn.Module, optimizer: torch.optim.AdamW, name: str) -> dict[str, Tensor]:
    """Returns AdamW's `exp_avg` or `exp_avg_sq`, whichever `name` says, by parameter name."""
    trained = trained_parameters(model)
    return {key: optimizer.state[parameter][name] for key, parameter in trained.items()}


def set_steps(optimizer: torch.optim.AdamW, steps: int) -> None:
    """Sets how many steps AdamW corrects its bias for."""
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.AdamW, learning_rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate(config: LearnerConfig, updates_made: int, total_updates: int) -> float:
    """Computes the learning rate of the update after `updates_made` others.

    A pure function, so a checkpoint needs no scheduler.

    warm-up:  lr * n / warmup_updates for the n-th update, n <= warmup_updates
    after it: constant; linear or cosine from lr down to 0 at total_updates
    """
    if updates_made < config.warmup_updates:
        return config.lr * (updates_made + 1) / config.warmup_updates
    left = total_updates - config.warmup_updates
    done = min(1.0, (updates_made - config.warmup_updates) / left) if left > 0 else 1.0
    if config.lr_schedule == "linear":
        return config.lr * (1 - done)
    if config.lr_schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    return config.lr
