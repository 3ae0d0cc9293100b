# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""A slow, literal transcription of the official computation on the raw tensors, to check conversions against.

Nothing here is shared with the model: no module of ours or of transformers, no renamed key, one formula a function.
Tensors keep the official names ("img_sa.0.mhatt.linear_q.weight"); `state` is always the whole state dict and `name`
the part of it that a function uses. Sizes that the tensors show are read from them, the others are in `Numbers`.
Without dropout and stochastic depth, in evaluation mode or with the BatchNorm of the official training.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Numbers:
    """What the tensors do not show.

    Attributes:
        heads: of every attention in VIR and LCA.
        text_heads: of BERT's attentions.
        filter_size: tokens VIR keeps.
        live_batch_norm: ResNet's BatchNorm uses the batch and updates its statistics (in place, in `state`).
    """

    heads: int
    text_heads: int
    filter_size: int
    live_batch_norm: bool = False


def linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """The usual x W^T + b, without b where there is none."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Normalised over the last axis."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, bias: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Heads one after the other: softmax(q k^T / sqrt(head width) + bias of the head) v, concatenated."""
    width = query.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / math.sqrt(width)
        if bias is not None:
            scores = scores + bias[head]
        outputs.append(scores.softmax(dim=-1) @ value[..., part])
    return torch.cat(outputs, dim=-1)


# Swin


def _relative_position_bias(table: torch.Tensor, window: int) -> list[torch.Tensor]:
    """One (window^2, window^2) table a head: the entry of each pair of pixels depends on their offset."""
    pixels = [(row, column) for row in range(window) for column in range(window)]
    index = torch.tensor(
        [[(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for b in pixels] for a in pixels]
    )
    return [table[:, head][index] for head in range(table.shape[1])]


def _regions(size: int, window: int, shift: int) -> torch.Tensor:
    """Which part of a cyclically shifted axis a position comes from: those of one window may not mix."""
    position = torch.arange(size)
    return (position >= size - window).long() + (position >= size - shift).long()


def _window_attention(state: State, name: str, x: torch.Tensor, shift: int) -> torch.Tensor:
    """Attention inside each window of x (batch, rows, columns, width)."""
    _, rows, columns, width = x.shape
    table = state[f"{name}.relative_position_bias_table"]
    window = (math.isqrt(table.shape[0]) + 1) // 2
    bias = _relative_position_bias(table, window)
    places = [
        (slice(None), slice(top, top + window), slice(left, left + window))
        for top in range(0, rows, window)
        for left in range(0, columns, window)
    ]
    if shift:
        region = 3 * _regions(rows, window, shift)[:, None] + _regions(columns, window, shift)[None, :]
        labels = torch.stack([region[place[1:]].flatten() for place in places])[:, None]  # (windows, 1, area)
        apart = labels[..., :, None] != labels[..., None, :]
        bias = [head - 100.0 * apart for head in bias]
    windows = torch.stack([x[place].flatten(1, 2) for place in places])  # (windows, batch, area, width)
    query, key, value = linear(state, f"{name}.qkv", windows).split(width, dim=-1)
    mixed = linear(state, f"{name}.proj", attention(query, key, value, table.shape[1], bias))
    output = torch.empty_like(x)
    for place, pixels in zip(places, mixed, strict=True):
        output[place] = pixels.unflatten(1, (window, window))
    return output


def swin_block(state: State, name: str, x: torch.Tensor, shifted: bool) -> torch.Tensor:
    """Pre-norm window attention and MLP on x (batch, rows, columns, width)."""
    window = (math.isqrt(state[f"{name}.attn.relative_position_bias_table"].shape[0]) + 1) // 2
    shift = window // 2 if shifted and x.shape[1] > window else 0
    y = torch.roll(layer_norm(state, f"{name}.norm1", x), (-shift, -shift), dims=(1, 2))
    x = x + torch.roll(_window_attention(state, f"{name}.attn", y, shift), (shift, shift), dims=(1, 2))
    y = layer_norm(state, f"{name}.norm2", x)
    return x + linear(state, f"{name}.mlp.fc2", F.gelu(linear(state, f"{name}.mlp.fc1", y)))


def swin(state: State, pixel_values: torch.Tensor) -> torch.Tensor:
    """Tokens of an image (batch, 1 + patches, width): their mean, then themselves."""
    name = "vision_encoder"
    weight = state[f"{name}.patch_embed.proj.weight"]
    x = F.conv2d(pixel_values, weight, state[f"{name}.patch_embed.proj.bias"], stride=weight.shape[-1])
    x = layer_norm(state, f"{name}.patch_embed.norm", x.permute(0, 2, 3, 1))
    stage = 0
    while f"{name}.layers.{stage}.blocks.0.norm1.weight" in state:
        block = 0
        while f"{name}.layers.{stage}.blocks.{block}.norm1.weight" in state:
            x = swin_block(state, f"{name}.layers.{stage}.blocks.{block}", x, shifted=block % 2 == 1)
            block += 1
        downsample = f"{name}.layers.{stage}.downsample"
        if f"{downsample}.reduction.weight" in state:
            corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = linear(
                state, f"{downsample}.reduction", layer_norm(state, f"{downsample}.norm", torch.cat(corners, -1))
            )
        stage += 1
    tokens = layer_norm(state, f"{name}.norm", x).flatten(1, 2)
    return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


# BERT


def bert(state: State, input_ids: torch.Tensor, heads: int) -> torch.Tensor:
    """Last hidden states (batch, length, width); no mask, token type 0, post-norm layers."""
    name = "text_encoder.embeddings"
    x = state[f"{name}.word_embeddings.weight"][input_ids]
    x = x + state[f"{name}.position_embeddings.weight"][: input_ids.shape[1]]
    x = layer_norm(state, f"{name}.LayerNorm", x + state[f"{name}.token_type_embeddings.weight"][0], 1e-12)
    layer = 0
    while f"text_encoder.encoder.layer.{layer}.output.dense.weight" in state:
        name = f"text_encoder.encoder.layer.{layer}"
        query, key, value = (linear(state, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        y = linear(state, f"{name}.attention.output.dense", attention(query, key, value, heads))
        x = layer_norm(state, f"{name}.attention.output.LayerNorm", x + y, 1e-12)
        y = linear(state, f"{name}.output.dense", F.gelu(linear(state, f"{name}.intermediate.dense", x)))
        x = layer_norm(state, f"{name}.output.LayerNorm", x + y, 1e-12)
        layer += 1
    return x


# ResNet


def _batch_norm(state: State, name: str, x: torch.Tensor, live: bool) -> torch.Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], live, 0.1, 1e-5)


def _bottleneck(state: State, name: str, x: torch.Tensor, stride: int, live: bool) -> torch.Tensor:
    y = F.relu(_batch_norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"]), live))
    y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
    y = F.relu(_batch_norm(state, f"{name}.bn2", y, live))
    y = _batch_norm(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]), live)
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = _batch_norm(state, f"{name}.downsample.1", x, live)
    return F.relu(x + y)


def resnet(state: State, pixel_values: torch.Tensor, live: bool) -> torch.Tensor:
    """Pooled features (batch, width); the official code's numbers are a Sequential's: 0 stem, 1 norm, 4-7 stages."""
    x = F.conv2d(pixel_values, state["conv_encoder.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(_batch_norm(state, "conv_encoder.1", x, live)), 3, stride=2, padding=1)
    for stage in range(4, 8):
        block = 0
        while f"conv_encoder.{stage}.{block}.conv1.weight" in state:
            stride = 2 if stage > 4 and block == 0 else 1
            x = _bottleneck(state, f"conv_encoder.{stage}.{block}", x, stride, live)
            block += 1
    return x.mean(dim=(2, 3))


# VIR and LCA


def attention_block(
    state: State, name: str, query: torch.Tensor, memory: torch.Tensor, heads: int, norm_style: str = "post"
) -> torch.Tensor:
    """`SA` (query = memory) or `CA`; the residual is on the memory. "branch" puts the norm where the paper has it."""
    prefix = f"{name}.mhatt_cross" if f"{name}.mhatt_cross.linear_q.weight" in state else f"{name}.mhatt"
    q = linear(state, f"{prefix}.linear_q", query)
    k, v = linear(state, f"{prefix}.linear_k", memory), linear(state, f"{prefix}.linear_v", memory)
    attended = linear(state, f"{prefix}.linear_merge", attention(q, k, v, heads))
    if norm_style == "post":
        a = layer_norm(state, f"{name}.norm1", memory + attended)
    else:
        a = memory + layer_norm(state, f"{name}.norm1", attended)
    inner = F.gelu(layer_norm(state, f"{name}.ffn.1", linear(state, f"{name}.ffn.0", a)))
    branch = linear(state, f"{name}.ffn.3", inner)
    if norm_style == "post":
        return layer_norm(state, f"{name}.norm2", a + branch)
    return a + layer_norm(state, f"{name}.norm2", branch)


def image_embeds(
    state: State, pixel_values: torch.Tensor, numbers: Numbers, norm_style: str = "post"
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Embed images.

    Returns:
        Unit embeddings (batch, dim), and where there is VIR belief scores (batch, 1 + patches) and the kept tokens
        (batch, filter_size), most believed first.
    """
    tokens = linear(state, "vision_proj", swin(state, pixel_values))
    if "conv_proj.weight" not in state:
        return F.normalize(tokens[:, 0], dim=-1), None, None
    with torch.no_grad():
        features = resnet(state, pixel_values, numbers.live_batch_norm)
    instruction = linear(state, "conv_proj", features)
    scores = (tokens * instruction[:, None]).sum(dim=-1)
    order = scores.argsort(dim=-1, descending=True)[:, : numbers.filter_size]  # as by softmax, which may tie at 0
    kept = tokens[torch.arange(len(tokens))[:, None], order]
    layer = 0
    while f"mapping_img.{layer}.weight" in state:
        kept = attention_block(state, f"img_sa.{layer}", kept, kept, numbers.heads, norm_style)
        query = linear(state, f"mapping_img.{layer}", instruction)[:, None].repeat(1, numbers.filter_size, 1)
        kept = attention_block(state, f"img_ca.{layer}", query, kept, numbers.heads, norm_style)
        layer += 1
    embeds = F.normalize(tokens[:, 0] + linear(state, "head_img", kept[:, 0]), dim=-1)
    return embeds, scores.softmax(dim=-1), order


def text_embeds(state: State, input_ids: torch.Tensor, numbers: Numbers, norm_style: str = "post") -> torch.Tensor:
    """Unit embeddings (batch, dim); padding attends like any token."""
    tokens = linear(state, "text_proj", bert(state, input_ids, numbers.text_heads))
    if "mapping_txt.0.weight" not in state:
        return F.normalize(tokens[:, 0], dim=-1)
    x, layer = tokens, 0
    while f"mapping_txt.{layer}.weight" in state:
        query = linear(state, f"mapping_txt.{layer}", x)
        x = attention_block(state, f"txt_sa.{layer}", x, x, numbers.heads, norm_style)
        x = attention_block(state, f"txt_ca.{layer}", query, x, numbers.heads, norm_style)
        layer += 1
    return F.normalize(tokens[:, 0] + linear(state, "head_txt", x[:, 0]), dim=-1)
