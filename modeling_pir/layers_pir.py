# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""The layers of PIR: attention, the paper's TransformerEncoderLayer, VIR and LCA.

Paper: "A Prior Instruction Representation Framework for Remote Sensing Image-text Retrieval", ACM MM 2023, sections 3.2
and 3.3. Names in back-ticks after "official" are those of github.com/jaychempan/PIR at e3faeda.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_pir import PIRConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: (batch, heads, rows, width) in, (batch, rows, heads, width) and the weights out."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class PIRAttention(nn.Module):
    """Multi-head attention (official `MHAtt`): three projections, softmax(q k^T / sqrt(head width)) v, one output."""

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.projection_dim // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.dropout
        self.is_causal = False
        self.q_proj = nn.Linear(config.projection_dim, config.projection_dim)
        self.k_proj = nn.Linear(config.projection_dim, config.projection_dim)
        self.v_proj = nn.Linear(config.projection_dim, config.projection_dim)
        self.out_proj = nn.Linear(config.projection_dim, config.projection_dim)

    def _split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, rows, head_dim)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Let each row of `query` (batch, rows, dim) read `memory` (batch, tokens, dim); returns (batch, rows, dim)."""
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attention(
            self,
            self._split_heads(self.q_proj(query)),
            self._split_heads(self.k_proj(memory)),
            self._split_heads(self.v_proj(memory)),
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
        )
        return self.out_proj(attended.flatten(2))


class PIRFeedForward(nn.Module):
    """Linear, LayerNorm, GELU, Linear (official `FFN`); the LayerNorm inside is not in the paper."""

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.projection_dim, config.feedforward_dim)
        self.norm = nn.LayerNorm(config.feedforward_dim)
        self.fc2 = nn.Linear(config.feedforward_dim, config.projection_dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.fc2(F.gelu(self.norm(self.fc1(hidden_states))))


class PIRAttentionBlock(nn.Module):
    """Attention and feed-forward with their residuals (official `SA` and `CA`, one module for both).

    norm_style "post" (official code): a = LN1(x + Drop(MHA)), out = LN2(a + Drop(FFN(a))).
    norm_style "branch" (paper, equations of the TEL): a = x + LN1(MHA), out = a + LN2(FFN(a)); the dropout of both
    branches, which the paper does not mention, is kept in front of the norm.
    """

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.norm_style = config.norm_style
        self.attention = PIRAttention(config)
        self.feed_forward = PIRFeedForward(config)
        self.attention_norm = nn.LayerNorm(config.projection_dim)
        self.feed_forward_norm = nn.LayerNorm(config.projection_dim)
        self.dropout = nn.Dropout(config.dropout)

    def _add(self, residual: torch.Tensor, branch: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        branch = self.dropout(branch)
        return norm(residual + branch) if self.norm_style == "post" else residual + norm(branch)

    def forward(
        self,
        residual: torch.Tensor,
        query: torch.Tensor,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add what `query` reads in `memory` to `residual`.

        Args:
            residual: (batch, rows, dim).
            query: (batch, rows, dim), or (batch, 1, dim) where all rows ask the same.
            memory: (batch, tokens, dim).
            attention_mask: of the attention interface, for (rows of the query, tokens).

        Returns:
            (batch, rows, dim).
        """
        attended = self.attention(query, memory, attention_mask).expand_as(residual)
        hidden_states = self._add(residual, attended, self.attention_norm)
        return self._add(hidden_states, self.feed_forward(hidden_states), self.feed_forward_norm)


class PIRTransformerEncoderLayer(GradientCheckpointingLayer):
    """The paper's TransformerEncoderLayer (TEL): self-attention, then cross-attention asked by an outside query.

    S = SA(F); out = CA(query = W q, memory = S, residual = S). The residual of the cross-attention is on S, as in both
    the paper and the official code.
    """

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.self_attention_block = PIRAttentionBlock(config)
        self.cross_attention_block = PIRAttentionBlock(config)
        self.query_projection = nn.Linear(config.projection_dim, config.projection_dim)

    def forward(
        self,
        features: torch.Tensor,
        query: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        first_row_only: bool = False,
    ) -> torch.Tensor:
        """Run the layer.

        Args:
            features: (batch, tokens, dim), the paper's F.
            query: (batch, tokens, dim), or (batch, 1, dim) for one query shared by all rows.
            attention_mask: (batch, 1, tokens, tokens) of the attention interface, or None.
            first_row_only: compute only row 0 of the output, where nothing else is read. The same number.

        Returns:
            (batch, tokens, dim), or (batch, 1, dim) with `first_row_only`.
        """
        memory = self.self_attention_block(features, features, features, attention_mask)
        residual = memory
        if first_row_only:
            residual, query = memory[:, :1], query[:, :1]
        if attention_mask is not None and query.shape[1] == 1:
            attention_mask = attention_mask[:, :, :1]
        return self.cross_attention_block(residual, self.query_projection(query), memory, attention_mask)


class VIR(nn.Module):
    r"""Vision Instruction Representation (paper, section 3.2; official `PIRBase.get_vision_fusion_embeds`).

    belief = softmax(V r);  F_0 = the filter_size most believed rows of V, sorted;
    F_i = TEL(F_{i-1}, W_i r);  v_loc = Head(F_n[0])

    with V the image tokens and r the instruction. The spatial part (Spatial-PAE) is the stack of TELs.

    Exact savings over the official code: its filter_size query rows are copies of one vector, so one is computed; and
    of the last layer only row 0 is read, so only row 0 is computed. In evaluation the numbers are the same; in
    training the rows share one dropout mask on the attention map, where the official code draws one each.

    As in the official code no gradient reaches the belief: sorting reads only its order. The instruction's projection
    learns through the queries alone. With `soft_belief` (ours) each kept token is multiplied by

    filter_size * softmax(V r / sqrt(dim)) over the kept tokens,

    1 on average, and the gradient reaches the belief. The root keeps long vectors from putting all weight on one token.
    """

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.filter_size = config.filter_size
        self.soft_belief = config.soft_belief
        self.layers = nn.ModuleList(PIRTransformerEncoderLayer(config) for _ in range(config.num_instruction_layers))
        self.head = nn.Linear(config.projection_dim, config.projection_dim)

    def filter(
        self, image_tokens: torch.Tensor, instruction_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score the tokens, sort them and keep the most believed ones.

        Args:
            image_tokens: (batch, 1 + patches, dim).
            instruction_embeds: (batch, dim).

        Returns:
            filtered_tokens (batch, filter_size, dim), belief_scores (batch, 1 + patches) float32, filtered_indices
            (batch, filter_size).

        Raises:
            ValueError: the tower gives fewer tokens than are to be kept.
        """
        if self.filter_size > image_tokens.shape[1]:
            raise ValueError(
                f"filter_size is {self.filter_size}, but the vision tower gave {image_tokens.shape[1]} tokens (one of "
                "them the pooled one): lower filter_size in the configuration."
            )
        # In float32, and as a product and a sum, which autocast leaves alone: bfloat16 scores would tie.
        scores = (image_tokens.float() * instruction_embeds.float()[:, None]).sum(dim=-1)  # (batch, 1 + patches)
        belief_scores = F.softmax(scores, dim=-1, dtype=torch.float32)
        # Scores, not probabilities, are ranked: the order is the same, and far tokens' probabilities tie at 0.
        filtered_indices = scores.topk(self.filter_size, dim=-1).indices
        dim = image_tokens.shape[-1]
        filtered_tokens = image_tokens.gather(1, filtered_indices[:, :, None].expand(-1, -1, dim))
        if self.soft_belief:
            weights = self.filter_size * F.softmax(scores.gather(1, filtered_indices) * dim**-0.5, dim=-1)
            filtered_tokens = filtered_tokens * weights[:, :, None].to(filtered_tokens.dtype)
        return filtered_tokens, belief_scores, filtered_indices

    def forward(
        self, image_tokens: torch.Tensor, instruction_embeds: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Read the image under instruction.

        Args:
            image_tokens: (batch, 1 + patches, dim), row 0 pooled.
            instruction_embeds: (batch, dim); None runs the layers over all tokens, each asking with its own row (the
                paper's "VSE + TEL" row).

        Returns:
            v_loc (batch, dim), belief_scores (batch, 1 + patches) and filtered_indices (batch, filter_size), both None
            without instruction.
        """
        features, belief_scores, filtered_indices = image_tokens, None, None
        if instruction_embeds is not None:
            features, belief_scores, filtered_indices = self.filter(image_tokens, instruction_embeds)
        for index, layer in enumerate(self.layers):
            query = features if instruction_embeds is None else instruction_embeds[:, None]
            features = layer(features, query, None, index == len(self.layers) - 1)
        return self.head(features[:, 0]), belief_scores, filtered_indices


class LCA(nn.Module):
    r"""Language Cycle Attention (paper, section 3.3; official `PIRBase.get_text_fusion_embeds`).

    F_0 = T;  F_i = TEL(F_{i-1}, W_i F_{i-1});  t_loc = Head(F_n[0])

    with T the text tokens: the text re-reads itself in cycles (Temporal-PAE). Padding is masked unless the
    configuration says `mask_padding=False`, as the official code.
    """

    def __init__(self, config: PIRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PIRTransformerEncoderLayer(config) for _ in range(config.num_cycles))
        self.head = nn.Linear(config.projection_dim, config.projection_dim)

    def forward(self, text_tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Map text_tokens (batch, tokens, dim), row 0 the sentence's, to t_loc (batch, dim)."""
        features = text_tokens
        for index, layer in enumerate(self.layers):
            features = layer(features, features, attention_mask, index == len(self.layers) - 1)
        return self.head(features[:, 0])


__all__ = ["LCA", "VIR", "PIRAttention", "PIRAttentionBlock", "PIRTransformerEncoderLayer"]
