"""BatchNorm with chunks and several processes: synchronised where possible, refused where not."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from modeling_pir import PIRModel


def freeze_batch_norm(model: PIRModel) -> None:
    """Keep the vision tower's BatchNorm on its own statistics, until the model's mode is set anew."""
    for module in model.vision_model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def live_batch_norms(model: nn.Module) -> list[str]:
    """Names of the BatchNorms that read the statistics of the batch; asked of a model in training mode.

    Args:
        model: any.

    Returns:
        Names, in order; none where an item's result does not depend on its batch.
    """
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return [name for name, module in norms if module.training or module.running_mean is None]


def check_chunks(model: nn.Module, chunk_size: int) -> None:
    """Refuse chunks where their size would change what the model computes.

    Args:
        model: in training mode, with everything frozen that is to be.
        chunk_size: of the run; 0 for whole batches.

    Raises:
        ValueError: a BatchNorm is live.
    """
    live = live_batch_norms(model)
    if chunk_size and live:
        raise ValueError(
            f"chunk_size is {chunk_size}, but {len(live)} BatchNorms are live, the first of them {live[0]!r}: their "
            "statistics would be those of a chunk. Freeze them (freeze_batch_norm: true; of the prior "
            "freeze_instruction_batch_norm: true) or set chunk_size to 0."
        )


class SyncBatchNorm(_BatchNorm):
    """torch's SyncBatchNorm, which exists for GPUs alone, with the same numbers on CPUs.

    It is none of its class, which DistributedDataParallel refuses on a CPU, and borrows its forward pass. A timm
    BatchNorm that is made into one keeps its dropout and activation, `drop` and `act`.
    """

    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (batch, channels, ...) by the statistics of all processes' rows."""
        if self.training and input.device.type == "cpu":
            output = self._normalise_on_cpu(input)
        else:
            output = nn.SyncBatchNorm.forward(self, input)
        return self.act(self.drop(output)) if hasattr(self, "act") else output

    def _normalise_on_cpu(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.float().transpose(0, 1).flatten(1)  # (channels, values)
        count = all_reduce(rows.new_tensor(float(rows.shape[1])))
        mean = all_reduce(rows.sum(dim=1)) / count
        rows = rows - mean[:, None]
        variance = all_reduce(rows.square().sum(dim=1)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        shape = (1, -1, *[1] * (input.dim() - 2))
        output = (input.float() - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Let every live BatchNorm of a model see the rows of all processes, in place; one process is left as it is.

    Each keeps its weights, statistics and names: only its class changes, so that what is saved is the same.

    Args:
        model: in training mode, before `accelerator.prepare`.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for name in live_batch_norms(model):
        module = model.get_submodule(name)
        module.__class__ = SyncBatchNorm
        module.process_group = None
