"""Gathering a batch across processes; the only file of the project that knows of a process group."""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather

from modeling_pir import PIRModel
from modeling_pir.modeling_pir import PIRLosses


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join the rows of all processes, keeping their gradients.

    Every process computes the loss of the joined batch; the backward pass of the gathering adds up what all of them
    say about a row, and DistributedDataParallel's average then makes it the gradient of one process on the joined
    batch. (The official code hands back only the local part, a gradient that is too small by the number of processes.)

    Args:
        rows: (batch, ...) of this process, equally long everywhere.

    Returns:
        (processes * batch, ...) in the order of the ranks; `rows` itself where there is one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    if rows.requires_grad:
        return torch.cat(all_gather(rows))
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def joint_losses(
    model: PIRModel,
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: torch.Tensor,
    scene_labels: torch.Tensor,
    process_index: int,
    caption_ids: torch.Tensor | None = None,
) -> PIRLosses:
    """Losses of the batch that all processes hold together.

    Args:
        model: not wrapped.
        image_embeds: (items, dim) of this process, unit norm.
        text_embeds: (items * captions, dim) of this process.
        image_ids: (items,) long.
        scene_labels: (items,) long.
        process_index: of this process.
        caption_ids: (items * captions,) long of `caption_keys`, which `identical_captions="positives"` needs.

    Returns:
        The same losses on every process; gradients reach this process's rows.
    """
    return model.compute_loss(
        gather_rows(image_embeds),
        gather_rows(text_embeds),
        gather_rows(image_ids),
        gather_rows(scene_labels),
        gather_rows(torch.full_like(image_ids, process_index)),
        None if caption_ids is None else gather_rows(caption_ids),
    )
