"""Frozen parts of a model, and LoRA adapters."""

import copy

from torch import nn

from modeling_pir import PIRModel
from modeling_pir.errors import need


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


def freeze_batch_norm(model: PIRModel) -> None:
    """Keep the vision tower's BatchNorm on its own statistics, until the model's mode is set anew."""
    for module in model.vision_model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def add_lora(model: PIRModel, rank: int) -> None:
    """Freeze both towers but for LoRA adapters in their attention; VIR, LCA and the projections go on training.

    Args:
        model: changed in place.
        rank: of the adapters.

    Raises:
        ImportError: peft is not installed.
    """
    peft = need("peft", "lora", "lora_rank needs")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    # Query and value of Swin, BERT and CLIP towers, by the names that transformers gives them.
    targets = r"(vision_model|text_model)\..*\.(q_proj|v_proj|query|value)"
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if name in trainable and not name.startswith(("vision_model.", "text_model.")):
            parameter.requires_grad_(True)


def without_adapters(model: PIRModel) -> PIRModel:
    """The model as it is saved: a copy with its adapters merged into the weights; itself where it has none."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if hasattr(module, "get_base_layer"):
            module.merge()
            merged.set_submodule(name, module.get_base_layer())
    return merged
