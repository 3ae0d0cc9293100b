"""Identify a model by a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights, rounded to bfloat16 so that a model loaded in half precision is the same one."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
