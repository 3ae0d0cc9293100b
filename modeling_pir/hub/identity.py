"""Which model made something: its id, its revision and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..modeling_pir import PIRModel


def weights_fingerprint(model: PIRModel) -> str:
    """SHA-256 of a model's weights, rounded to bfloat16 so that a model loaded in half precision is the same one."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def describe_model(model: PIRModel, model_id: str | None = None, revision: str | None = None) -> dict:
    """What an index stores about its model: id and revision to load it again, fingerprint and length of its vectors.

    Args:
        model: in evaluation mode.
        model_id: Hub id or folder; None takes what `from_pretrained` was called with.
        revision: None takes the commit on the Hub, if it came from there.

    Returns:
        `model_id`, `revision`, `weights` and `dim`.
    """
    model_id = model_id or model.name_or_path or None
    if model_id and os.path.isdir(model_id):
        model_id = os.path.abspath(model_id)
    revision = revision or getattr(model.config, "_commit_hash", None)
    fingerprint = weights_fingerprint(model)
    return {"model_id": model_id, "revision": revision, "weights": fingerprint, "dim": model.config.projection_dim}
