"""What FSDP2 needs: a model whose weights no process holds whole can neither be saved nor evaluated as it is."""

import copy

from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from modeling_pir import PIRModel
from training.config import TrainConfig
from training.gather import average_gradient


def prepare_sharding(accelerator: Accelerator, config: TrainConfig, model: PIRModel) -> PIRModel | None:
    """Make a model ready for `accelerator.prepare`; where nothing is sharded it stays as it is.

    The temperatures stay whole on every process, because `fully_shard` takes no scalars; their gradients are averaged
    here, as those of the shards are by FSDP2.

    Args:
        accelerator: of the run.
        config: of the run.
        model: changed in place, before an optimiser knows its parameters.

    Returns:
        On the main process of a sharded run a whole copy in host memory, to be filled by [`whole_model`]; else None.

    Raises:
        ValueError: a setting that sharded weights cannot have.
    """
    if not accelerator.is_fsdp2:
        return None
    plugin = accelerator.state.fsdp_plugin
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is on, but accelerate cannot hand out BatchNorm's buffers that way: set it "
            "to false, as training/accelerate/fsdp2.yaml does."
        )
    if config.instruction_epochs:
        raise ValueError(
            "instruction_epochs is not 0, but a prior cannot be trained within a sharded run: train it first with "
            "python -m training.pretrain_instruction."
        )
    if plugin.transformer_cls_names_to_wrap is None:
        # accelerate shards the word embeddings by themselves and fails where a block that holds them is sharded, too.
        present = {type(module).__name__ for module in model.modules()}
        blocks = {name for name in model._no_split_modules if not name.endswith("Embeddings")}
        plugin.transformer_cls_names_to_wrap = sorted(blocks & present)
    whole = copy.deepcopy(model) if accelerator.is_main_process else None
    if accelerator.native_amp:
        # accelerate would have the shards gathered in bfloat16 and everything computed in it: not what autocast does in
        # one process, and an error where a BatchNorm's statistics are float32.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
    scales = [scale for scale in (model.logit_scale, model.affiliation_logit_scale) if scale is not None]
    for scale in scales:
        scale.data = scale.data.to(accelerator.device)  # FSDP2 moves only what it shards
        if scale.requires_grad:
            scale.register_post_accumulate_grad_hook(average_gradient)
    plugin.ignored_modules = [nn.ParameterList(scales)]  # asked for its parameters and nothing else
    return whole


def whole_model(accelerator: Accelerator, model: nn.Module, whole: PIRModel | None) -> PIRModel | None:
    """The model with all its weights, to save and evaluate; every process calls it.

    Args:
        accelerator: of the run.
        model: as prepared by it.
        whole: of [`prepare_sharding`].

    Returns:
        The unwrapped model itself where nothing is sharded; else, on the main process alone, the filled copy.
    """
    if not accelerator.is_fsdp2:
        return accelerator.unwrap_model(model, keep_torch_compile=False)
    weights = accelerator.get_state_dict(model)
    if whole is not None:
        whole.load_state_dict(weights)
        whole.to(accelerator.device)  # for evaluation; the loop puts it back
    return whole
