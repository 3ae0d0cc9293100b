"""Parameter groups and the learning-rate schedule."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters into those that decay and those that do not.

    Vectors and scalars (norms, biases, temperatures) and tables of position biases do not decay: pulling them to zero
    regularises nothing. The official code goes by substrings of names, which lets 12 norms and both temperatures decay.

    Args:
        model: the model.
        weight_decay: of the first group.

    Returns:
        Two groups for an optimiser.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = "relative_position_bias_table" in name
            (kept if parameter.dim() < 2 or is_table else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def warmup_then_decay(
    optimizer: torch.optim.Optimizer, num_steps: int, warmup_ratio: float, schedule: str
) -> LambdaLR:
    """Linear warm-up, then linear or cosine decay to 0, stepped once per update.

    The first update already has a learning rate above 0 and the last one too; the official schedule wastes its first.

    Args:
        optimizer: its groups' learning rates are the peak.
        num_steps: updates of the whole run.
        warmup_ratio: share of them that warms up.
        schedule: "linear" or "cosine".

    Returns:
        The scheduler.
    """
    warmup = int(warmup_ratio * num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(num_steps - warmup, 1)
        return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
