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


def peak_learning_rates(
    model: nn.Module, learning_rate: float, layer_decay: float, module_learning_rates: dict[str, float]
) -> dict[str, float]:
    """The peak learning rate of every parameter.

    Args:
        model: the model.
        learning_rate: of what `module_learning_rates` does not name.
        layer_decay: see [`learning_rate_factors`].
        module_learning_rates: names of modules or parameters to rates; the longest name that fits wins.

    Returns:
        Parameter name to learning rate.

    Raises:
        ValueError: the model has no module of a name.
    """
    factors = learning_rate_factors(model, layer_decay)
    rates = dict.fromkeys(factors, learning_rate)
    for module in sorted(module_learning_rates, key=len):
        own = [name for name in factors if name == module or name.startswith(f"{module}.")]
        if not own:
            children = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"module_learning_rates names {module!r}, but the model has no such part: it has {children} and theirs."
            )
        rates |= dict.fromkeys(own, module_learning_rates[module])
    return {name: rates[name] * factor for name, factor in factors.items()}


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    learning_rate: float,
    layer_decay: float = 1.0,
    module_learning_rates: dict[str, float] | None = None,
) -> list[dict]:
    """Group the trainable parameters by whether they decay and by their learning rate.

    Vectors and scalars (norms, biases, temperatures) and tables of position biases do not decay: pulling them to zero
    regularises nothing. The official code goes by substrings of names, which lets 10 norms and both temperatures decay.

    Args:
        model: the model.
        weight_decay: of the parameters that decay.
        learning_rate: the peak.
        layer_decay: see [`learning_rate_factors`].
        module_learning_rates: see [`peak_learning_rates`].

    Returns:
        Groups for an optimiser; with one learning rate for all two of them, the first of which decays.
    """
    rates = peak_learning_rates(model, learning_rate, layer_decay, module_learning_rates or {})
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((decays(name, parameter), rates[name]), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": weight_decay * key[0], "lr": key[1]}
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
