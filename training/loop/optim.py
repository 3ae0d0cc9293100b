"""Parameter groups and the learning-rate schedule."""

import math
import re

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

BLOCK = re.compile(
    r"\.(layers?|blocks|h|stages)\.\d+(\.blocks\.\d+)?(?=\.)"
)  # one transformer block in a parameter's name


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is pulled towards zero: weight matrices are; vectors, scalars and position tables are not."""
    return parameter.dim() > 1 and "relative_position_bias_table" not in name


def learning_rate_factors(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Share of the peak learning rate that each parameter gets, by its depth in its tower.

    The last block of a tower gets `layer_decay`, the one below it `layer_decay` squared, and so on down to the
    embeddings; what is no tower gets 1.

    Args:
        model: with the towers `vision_model`, `text_model`.
        layer_decay: factor from a block to the one below.

    Returns:
        Parameter name to factor.
    """
    factors = {name: 1.0 for name, _ in model.named_parameters()}
    for tower in ("vision_model", "text_model"):
        names = [name for name in factors if f"{tower}." in name]
        blocks = list(dict.fromkeys(match.group() for name in names if (match := BLOCK.search(name))))
        for name in names:
            match = BLOCK.search(name)
            # What comes after the blocks (a last norm) has no number and learns like the last block.
            is_embedding = match is None and "embed" in name
            depth = blocks.index(match.group()) + 1 if match else 0 if is_embedding else len(blocks)
            factors[name] = layer_decay ** (len(blocks) + 1 - depth)
    return factors


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict]:
    """Group the trainable parameters by whether they decay and by their learning rate.

    Vectors and scalars (norms, biases, temperatures) and tables of position biases do not decay: pulling them to zero
    regularises nothing. The official code goes by substrings of names, which lets 10 norms and both temperatures decay.

    Args:
        model: the model.
        weight_decay: of the parameters that decay.
        learning_rate: the peak.
        layer_decay: see [`learning_rate_factors`].

    Returns:
        Groups for an optimiser; with `layer_decay=1` two of them, the first of which decays.
    """
    factors = learning_rate_factors(model, layer_decay)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((decays(name, parameter), factors[name]), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": weight_decay * key[0], "lr": learning_rate * key[1]}
        for key in sorted(groups, reverse=True)
    ]


def warmup_then_decay(optimizer: torch.optim.Optimizer, num_steps: int, warmup_ratio: float, schedule: str) -> LambdaLR:
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
