"""Frozen parts of a model, and LoRA adapters."""

import copy

from torch import nn

from modeling_pir import PIRModel
from modeling_pir.errors import need

ATTENTION_NAMES = {  # of queries and values, or of all three in one: transformers' and timm's
    "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v", "qkv", "Wqkv",
}  # fmt: skip


def freeze_modules(model: PIRModel, names: list[str]) -> None:
    """Stop the gradient of parts of a model.

    Args:
        model: changed in place.
        names: of modules or parameters, such as "vision_model" or "text_model.embeddings".

    Raises:
        ValueError: the model has no such part.
    """
    for name in names:
        parts = [p for own, p in model.named_parameters() if own == name or own.startswith(f"{name}.")]
        if not parts:
            children = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"freeze names {name!r}, but the model has no such part: it has {children} and theirs.")
        for parameter in parts:
            parameter.requires_grad_(False)


def lora_targets(tower: nn.Module) -> list[str]:
    """The layers of a tower that get adapters.

    Args:
        tower: any.

    Returns:
        Names within the tower: queries and values of its attention, by the names that the libraries give them; of a
        tower without such a name every linear layer; of a purely convolutional one every convolution that is not
        depthwise. Empty where it has none of these.
    """
    inside_attention = [name for name, module in tower.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linear = [
        name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(tuple(f"{outer}." for outer in inside_attention))
    ]
    attention = [name for name in linear if name.rpartition(".")[2] in ATTENTION_NAMES]
    convolutions = [name for name, module in tower.named_modules() if isinstance(module, nn.Conv2d)]
    return attention or linear or [name for name in convolutions if tower.get_submodule(name).groups == 1]


def add_lora(model: PIRModel, rank: int) -> None:
    """Freeze both towers but for LoRA adapters, see [`lora_targets`]; VIR, LCA and the projections go on training.

    Args:
        model: changed in place.
        rank: of the adapters, which are scaled by 2 (alpha is twice the rank).

    Raises:
        ImportError: peft is not installed.
        ValueError: a tower without a layer that could be adapted.
    """
    peft = need("peft", "lora", "lora_rank needs")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    targets = []
    for part in ("vision_model", "text_model"):
        tower = model.get_submodule(part)
        found = lora_targets(tower)
        if not found:
            raise ValueError(
                f"lora_rank is {rank}, but the {part} ({type(tower).__name__}) has neither a linear nor a "
                "convolutional layer to adapt: set lora_rank to 0."
            )
        targets += [f"{part}.{name}" for name in found]
    tuner = peft.LoraModel(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), "default")
    model.lora_tuner = (tuner,)  # in a tuple, which makes it no module of the model that it holds
    for name, parameter in model.named_parameters():
        if name in trainable and not name.startswith(("vision_model.", "text_model.")):
            parameter.requires_grad_(True)


def without_adapters(model: PIRModel) -> PIRModel:
    """The model as it is saved: a copy with its adapters merged into the weights; itself where it has none."""
    if not hasattr(model, "lora_tuner"):
        return model
    merged = copy.deepcopy(model)
    (tuner,) = merged.lora_tuner
    del merged.lora_tuner
    return tuner.merge_and_unload()
