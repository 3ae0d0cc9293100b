"""Gathering a batch across processes; the only file of the project that knows of a process group."""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


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


def average_gradient(parameter: torch.nn.Parameter) -> None:
    """Make the gradient of a parameter that every process holds the mean of all processes, in place."""
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()
