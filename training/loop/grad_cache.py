"""Contrastive batches larger than memory: the gradient of the whole batch, one chunk at a time (GradCache, 2021)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modeling_pir.modeling_pir import PIRLosses, caption_keys
from training.loop.joint_loss import joint_losses


def chunks_of(inputs: dict[str, torch.Tensor], chunk_size: int) -> list[dict[str, torch.Tensor]]:
    """Cut a batch into chunks of images with their captions.

    Args:
        inputs: `pixel_values` (items, ...) and text tensors (items * captions, length).
        chunk_size: items of a chunk; the last one may have fewer.

    Returns:
        The chunks, in order.
    """
    num_items = len(inputs["pixel_values"])
    captions_per_item = len(inputs["input_ids"]) // num_items
    parts = []
    for start in range(0, num_items, chunk_size):
        end = min(start + chunk_size, num_items)
        parts.append(
            {
                name: rows[start:end]
                if name == "pixel_values"
                else rows[start * captions_per_item : end * captions_per_item]
                for name, rows in inputs.items()
            }
        )
    return parts


def cached_backward(
    accelerator: Accelerator,
    model: nn.Module,
    inputs: dict[str, torch.Tensor],
    image_ids: torch.Tensor,
    scene_labels: torch.Tensor,
    chunk_size: int,
) -> PIRLosses:
    """Accumulate the gradient of the whole batch, holding the activations of one chunk.

    First every chunk is embedded without a graph; the loss of the whole batch gives the gradient at the embeddings;
    then every chunk is embedded again, under the random state it had, and that gradient is sent through it. The result
    is the plain gradient; the price is a second forward pass.

    Args:
        accelerator: of the run.
        model: as prepared by it.
        inputs: model inputs of this process, see [`chunks_of`].
        image_ids: (items,) long.
        scene_labels: (items,) long.
        chunk_size: items whose activations fit in memory.

    Returns:
        The losses of the batch, detached.
    """
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    chunks = chunks_of(inputs, chunk_size)
    random_states, image_rows, text_rows = [], [], []
    with torch.no_grad():
        for chunk in chunks:
            random_states.append(_random_state())
            outputs = model(**chunk)
            image_rows.append(outputs.image_embeds)
            text_rows.append(outputs.text_embeds)
    image_embeds = torch.cat(image_rows).requires_grad_(True)
    text_embeds = torch.cat(text_rows).requires_grad_(True)
    captions = caption_keys(inputs["input_ids"], inputs.get("attention_mask"))
    losses = joint_losses(
        plain, image_embeds, text_embeds, image_ids, scene_labels, accelerator.process_index, captions
    )
    scales = [plain.logit_scale, plain.affiliation_logit_scale]
    scales = [scale for scale in scales if scale is not None and scale.requires_grad]
    # Not backward(): under DistributedDataParallel the scales' gradients would be averaged at this point already.
    image_grad, text_grad, *scale_grads = torch.autograd.grad(
        losses.loss, [image_embeds, text_embeds, *scales], allow_unused=True
    )
    image_grads = image_grad.split([len(rows) for rows in image_rows])
    text_grads = text_grad.split([len(rows) for rows in text_rows])
    for index, chunk in enumerate(chunks):
        is_last = index == len(chunks) - 1
        with nullcontext() if is_last else _no_sync(accelerator, model):
            _set_random_state(random_states[index])
            outputs = model(**chunk)
            surrogate = (outputs.image_embeds * image_grads[index]).sum()
            surrogate = surrogate + (outputs.text_embeds * text_grads[index]).sum()
            if is_last:
                for scale, gradient in zip(scales, scale_grads, strict=True):
                    surrogate = surrogate + (scale * gradient if gradient is not None else 0)
            accelerator.backward(surrogate)
    affiliation = None if losses.affiliation_loss is None else losses.affiliation_loss.detach()
    return PIRLosses(losses.loss.detach(), losses.contrastive_loss.detach(), affiliation)


def _no_sync(accelerator: Accelerator, model: nn.Module) -> AbstractContextManager:
    # torchrun has the model wrapped even for one process, where accelerate's own no_sync does nothing.
    return model.no_sync() if isinstance(model, DistributedDataParallel) else accelerator.no_sync(model)


def _random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
