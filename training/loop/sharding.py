"""Support for FSDP2 and ZeRO, which take over parts of the loop and know nothing of this model."""

import copy

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from modeling_pir import PIRModel
from training.config import TrainConfig


def check_sharding(accelerator: Accelerator, config: TrainConfig) -> None:
    """Refuse, before any work, what cannot be done with weights or an optimiser that are shared out.

    Args:
        accelerator: of the run.
        config: of the run.

    Raises:
        ValueError: a setting that FSDP2 or DeepSpeed cannot have.
    """
    by_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    if config.instruction_epochs and (by_deepspeed or accelerator.is_fsdp2):
        raise ValueError(
            f"instruction_epochs is {config.instruction_epochs}, but a prior cannot be trained within a sharded run: "
            "train it first with python -m training.pretrain_tower."
        )
    if config.feature_cache is not None and (by_deepspeed or accelerator.is_fsdp2):
        raise ValueError(
            f"feature_cache is {config.feature_cache!r}, but it reads whole towers and a sharded run has none: leave "
            "it out, or run one process."
        )
    if accelerator.is_fsdp2 and accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is on, but accelerate cannot hand out BatchNorm's buffers that way: set it "
            "to false, as training/launch/fsdp2.yaml does."
        )
    if not by_deepspeed:
        return
    stage = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage"]
    if stage > 2:
        raise ValueError(
            f"zero_stage is {stage}, with which no process holds the weights that are to be evaluated and saved: "
            "choose 1 or 2, or FSDP2 (training/launch/fsdp2.yaml)."
        )
    if config.chunk_size or config.raw_temperatures:
        name = "chunk_size" if config.chunk_size else "raw_temperatures"
        raise ValueError(
            f"{name} is {getattr(config, name)}, but DeepSpeed updates the weights by itself after every backward "
            f"pass: set {name} to {TrainConfig.__dataclass_fields__[name].default}, or use "
            "training/launch/fsdp2.yaml."
        )
    if accelerator.mixed_precision == "fp16":
        raise ValueError("mixed_precision is fp16, which is not supported under DeepSpeed: choose bf16.")


def prepare_sharding(accelerator: Accelerator, config: TrainConfig, model: PIRModel) -> PIRModel | None:
    """Make a model ready for `accelerator.prepare`; where nothing is sharded it stays as it is.

    Under FSDP2 the temperatures stay whole on every process, because `fully_shard` takes no scalars; their gradients
    are averaged here, as those of the shards are by FSDP2.

    Args:
        accelerator: of the run.
        config: of the run.
        model: changed in place, before an optimiser knows its parameters.

    Returns:
        On the main process of a sharded run a whole copy in host memory, to be filled by [`whole_model`]; else None.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _prepare_zero(accelerator, config, model)
    if not accelerator.is_fsdp2:
        return None
    plugin = accelerator.state.fsdp_plugin
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
        _autocast_forward(accelerator, model)
    scales = _scales(model)
    for scale in scales:
        scale.data = scale.data.to(accelerator.device)  # FSDP2 moves only what it shards
        if scale.requires_grad:
            scale.register_post_accumulate_grad_hook(average_gradient)
    plugin.ignored_modules = [nn.ParameterList(scales)]  # asked for its parameters and nothing else
    return whole


def _prepare_zero(accelerator: Accelerator, config: TrainConfig, model: PIRModel) -> None:
    """DeepSpeed's settings from the run's; its engine takes the model as it is then."""
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    settings["train_micro_batch_size_per_gpu"] = config.batch_size // accelerator.num_processes
    settings["gradient_clipping"] = config.max_grad_norm  # 0: none
    if accelerator.mixed_precision == "bf16":
        # DeepSpeed's own would make the weights bfloat16 and leave the images float32.
        _autocast_forward(accelerator, model)
        settings["bf16"]["enabled"] = False
    for scale in _scales(model):
        scale.ds_optim_param = True  # not sent around at the start (all processes have it): DeepSpeed fails at scalars


def _autocast_forward(accelerator: Accelerator, model: PIRModel) -> None:
    """What `accelerator.prepare` does to a model that is not sharded."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]
    model.forward = convert_outputs_to_fp32(torch.autocast(accelerator.device.type, dtype)(model.forward))


def _scales(model: PIRModel) -> list[nn.Parameter]:
    return [scale for scale in (model.logit_scale, model.affiliation_logit_scale) if scale is not None]


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


def average_gradient(parameter: torch.nn.Parameter) -> None:
    """Make the gradient of a parameter that every process holds the mean of all processes, in place."""
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()
