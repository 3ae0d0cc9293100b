"""Temperatures trained as in the official code: directly, with weight decay, not as log scales."""

import torch
from torch import nn

from modeling_pir import PIRModel


def train_raw_temperatures(model: PIRModel, optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Let an optimiser step the temperatures behind a model's logit scales, and keep the scales in line with them.

    The model stays as it is: in front of each step a scale s hands its gradient to the temperature t = exp(-s), by the
    chain rule dL/dt = -dL/ds / t, and behind it takes the temperature's new value. Call it before a learning-rate
    schedule is built. In float32 or bfloat16; a float16 gradient scaler does not see the scales.

    Args:
        model: its `logit_scale` and `affiliation_logit_scale` leave the optimiser.
        optimizer: gets a group with their temperatures instead, of the same learning rate.
        weight_decay: of the temperatures (official: 0.01, like any weight).
    """
    own = {id(scale) for scale in (model.logit_scale, model.affiliation_logit_scale)}
    scales, learning_rate = [], 0.0
    for group in optimizer.param_groups:
        found = [weight for weight in group["params"] if id(weight) in own]
        if found:
            scales += found
            learning_rate = group["lr"]
            group["params"] = [weight for weight in group["params"] if id(weight) not in own]
    temperatures = [nn.Parameter(torch.exp(-scale.detach())) for scale in scales]
    optimizer.add_param_group({"params": temperatures, "lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def hand_over(*_: object) -> None:
        for scale, temperature in zip(scales, temperatures, strict=True):
            temperature.copy_(torch.exp(-scale))  # a resumed run has loaded other scales since
            temperature.grad = None if scale.grad is None else -scale.grad / temperature

    @torch.no_grad()
    def take_back(*_: object) -> None:
        for scale, temperature in zip(scales, temperatures, strict=True):
            scale.copy_(-temperature.log())
            scale.grad = None  # zero_grad of the optimiser does not reach it any more

    optimizer.register_step_pre_hook(hand_over)
    optimizer.register_step_post_hook(take_back)
