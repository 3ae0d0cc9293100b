"""Parameter groups and the learning-rate schedule."""

import math
import re

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is pulled towards zero: weight matrices are; vectors, scalars and position tables are not."""
    return parameter.dim() > 1 and "relative_position_bias_table" not in name


def block_depths(tower: nn.Module) -> dict[str, int]:
    """How deep in its tower each parameter is: 0 for the embeddings, then the blocks one by one.

    A timm tower is asked itself (its `group_matcher`). In a tower of transformers a block is an entry of its list of
    layers, or of the lists of its stages; what comes in front of the first is embedding, what comes behind the last is
    as deep as the last.

    Args:
        tower: of timm or transformers.

    Returns:
        Parameter name within the tower to depth.

    Raises:
        ValueError: a tower whose blocks cannot be told apart, or put in order.
    """
    if hasattr(tower, "timm_model"):
        from timm.models import group_parameters

        matcher = tower.timm_model.group_matcher(coarse=False)
        depths = group_parameters(tower.timm_model, matcher, reverse=True)
        depths = {f"timm_model.{name}": depth for name, depth in depths.items()}
    else:
        depths = _depths_by_name(tower)
    if max(depths.values(), default=0) == 0:
        raise ValueError(
            f"layer_decay cannot tell the blocks of a {type(tower).__name__} apart: set layer_decay to 1, which gives "
            "every layer the same rate."
        )
    return depths


def _depths_by_name(tower: nn.Module) -> dict[str, int]:
    levels = 2 if hasattr(tower.config, "depths") else 1  # stages of blocks, or blocks
    pattern = re.compile(r"(?:^|.*?\.)\d+(?=\.)" + r"(?:.*?\.\d+(?=\.))?" * (levels - 1))
    names = [name for name, _ in tower.named_parameters()]
    block_of = {name: match.group() for name in names if (match := pattern.match(name))}
    if len({re.split(r"\.?\d", block)[0] for block in block_of.values()}) > 1:  # several lists side by side
        return {}
    blocks = list(dict.fromkeys(block_of.values()))
    depths, is_behind = {}, False
    for name in names:
        is_behind = is_behind or name in block_of
        if name in block_of:
            depths[name] = blocks.index(block_of[name]) + 1
        else:
            depths[name] = len(blocks) if is_behind and "embed" not in name else 0
    return depths


def learning_rate_factors(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Share of the peak learning rate that each parameter gets, by its depth in its tower.

    The last block of a tower gets `layer_decay`, the one below it `layer_decay` squared, and so on down to the
    embeddings; what is no tower gets 1.

    Args:
        model: with the towers `vision_model`, `text_model`.
        layer_decay: factor from a block to the one below; 1 asks nothing of the towers.

    Returns:
        Parameter name to factor.

    Raises:
        ValueError: see [`block_depths`].
    """
    factors = {name: 1.0 for name, _ in model.named_parameters()}
    for part in ("vision_model", "text_model") if layer_decay != 1 else ():
        depths = block_depths(model.get_submodule(part))
        for name, depth in depths.items():
            factors[f"{part}.{name}"] = layer_decay ** (max(depths.values()) + 1 - depth)
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
