# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Configuration of PIR: all architecture settings and the configurations of the three towers."""

import math
import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


def num_patches(vision_config: PreTrainedConfig) -> int | None:
    """Patch tokens the vision tower returns for one image of its own size, without class or register tokens.

    Args:
        vision_config: configuration of the vision tower.

    Returns:
        49 for Swin-T and for ViT-B/32 at 224 pixels; None where the configuration does not say (timm models).
    """
    image_size = getattr(vision_config, "image_size", None)
    patch_size = getattr(vision_config, "patch_size", None)
    if image_size is None or patch_size is None:
        return None
    height, width = image_size if isinstance(image_size, list | tuple) else (image_size, image_size)
    patch_height, patch_width = patch_size if isinstance(patch_size, list | tuple) else (patch_size, patch_size)
    if not hasattr(vision_config, "depths"):
        return (height // patch_height) * (width // patch_width)
    rows, cols = math.ceil(height / patch_height), math.ceil(width / patch_width)
    for _ in vision_config.depths[1:]:  # a hierarchical tower halves its grid between stages, padding odd sides
        rows, cols = math.ceil(rows / 2), math.ceil(cols / 2)
    return rows * cols


@strict
class PIRConfig(PreTrainedConfig):
    r"""Configuration of a [`PIRModel`] (PIR, ACM MM 2023). The defaults are the paper's: Swin-T, BERT-base, ResNet-50.

    Args:
        vision_config: configuration of the vision tower (dict, config or None for Swin-T at 224 pixels).
        text_config: configuration of the text tower (None: BERT-base).
        instruction_config: configuration of the prior that instructs the vision side (None: ResNet-50).
        projection_dim: width of the joint space and of VIR and LCA.
        num_attention_heads: heads of every attention in VIR and LCA; divides `projection_dim`.
        feedforward_dim: inner width of the feed-forward blocks in VIR and LCA.
        dropout: probability in [0, 1), on attention maps and on both residual branches of VIR and LCA.
        num_instruction_layers: layers of VIR (the paper's L_s). 0: no VIR and no instruction tower.
        num_cycles: cycles of LCA (the paper's L_t). 0: no LCA. With both 0 the model is the paper's VSE baseline.
        filter_size: how many of the 1 + patches tokens VIR keeps, those with the highest belief.
        soft_belief: weight the kept tokens by their scores, so that the gradient reaches the belief, which it never
            does in the paper and the official code. Ours.
        use_instruction: False runs VIR's layers over all tokens without a prior: the paper's "VSE + TEL" row. No
            instruction tower is built then, and `filter_size` is not used.
        norm_style: "post", LN(x + f(x)), as the official code; "branch", x + LN(f(x)), as the paper's equations.
        text_pooling: the sentence token: "first", the text tower's first token (BERT's [CLS], as in the paper); "mean",
            the mean of its tokens, as for towers from sentence-transformers. Ignored for a tower that pools by itself
            (CLIP's).
        mask_padding: False lets padding take part in attention, as the official code does: a caption's embedding then
            depends on the other captions of its batch.
        freeze_instruction_encoder: the prior's weights get no gradient (paper, section 3.2).
        freeze_instruction_batch_norm: False leaves the frozen prior's BatchNorm in training mode during training, as
            the official code does by omission: statistics drift and an image's embedding depends on its batch.
        identical_captions: "negatives", as in the paper and the official code: a caption is a positive of its own image
            only, even if another image of the batch has the same sentence; "positives" (ours): it is a positive of all
            of them.
        contrastive_objective: "infonce" (paper, L_c) or "triplet" (sum of hinges, the older baselines' loss).
        triplet_margin: margin of the triplet loss, in cosine units.
        logit_scale_init_value: start of both logit scales, log(1 / temperature); temperature 0.07 in the paper.
        affiliation_weight: factor of the affiliation loss (paper, lambda). 0 turns it off.
        affiliation_targets: "scene" counts each scene once, so the loss of perfect clusters is 0; "identity" is the
            official code's target, one column per sample although columns of one scene are equal.
        affiliation_centers: "global", cluster centres of the gathered batch; "local", of each process's part of it, as
            the official code.
        ground_resolution: approximate metres per pixel of the training images; finer scenes are resampled to it when
            they are indexed or localized. None: unknown, scenes keep their own.

    Raises:
        ValueError: an inconsistent architecture (heads that do not divide the width, `filter_size` above the number of
            tokens).

    Example:
    ```python
    >>> from modeling_pir import PIRConfig, PIRModel

    >>> config = PIRConfig(num_cycles=0)  # PIR without LCA
    >>> model = PIRModel(config)
    ```
    """

    model_type = "pir"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="swin"),
        "text_config": SubConfigSpec(AutoConfig, model_type="bert"),
        "instruction_config": SubConfigSpec(AutoConfig, model_type="resnet"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    instruction_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    num_attention_heads: int = 8
    feedforward_dim: int = 1024
    dropout: float | int = 0.2
    num_instruction_layers: int = 2
    num_cycles: int = 3
    filter_size: int = 40
    soft_belief: bool = False
    use_instruction: bool = True
    norm_style: Literal["post", "branch"] = "post"
    text_pooling: Literal["first", "mean"] = "first"
    mask_padding: bool = True
    freeze_instruction_encoder: bool = True
    freeze_instruction_batch_norm: bool = True
    identical_captions: Literal["negatives", "positives"] = "negatives"
    contrastive_objective: Literal["infonce", "triplet"] = "infonce"
    triplet_margin: float | int = 0.2
    logit_scale_init_value: float | int = math.log(1 / 0.07)
    affiliation_weight: float | int = 1.0
    affiliation_targets: Literal["scene", "identity"] = "scene"
    affiliation_centers: Literal["global", "local"] = "global"
    ground_resolution: float | int | None = None

    @property
    def has_instruction(self) -> bool:
        """Whether the model has an instruction tower: VIR is there and takes its instruction."""
        return self.num_instruction_layers > 0 and self.use_instruction

    def __post_init__(self, **kwargs: object) -> None:
        """Build the sub-configurations, then check the numbers here, where the error is still a plain ValueError."""
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Check that the numbers fit together; transformers runs it again when a configuration is saved.

        Raises:
            ValueError: with the field, its value and what is allowed.
        """
        for name in ("projection_dim", "num_attention_heads", "feedforward_dim", "filter_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be at least 1.")
        for name in ("num_instruction_layers", "num_cycles", "affiliation_weight", "triplet_margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 0 (off) or more.")
        if self.ground_resolution is not None and not 0 < self.ground_resolution < math.inf:
            raise ValueError(
                f"ground_resolution is {self.ground_resolution}, but it has to be above 0 metres per pixel."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but it is a probability: at least 0 and below 1.")
        if self.projection_dim % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) does not divide projection_dim "
                f"({self.projection_dim}): choose a divisor, each head gets an equal share of the width."
            )
        patches = num_patches(self.vision_config) if isinstance(self.vision_config, PreTrainedConfig) else None
        if self.has_instruction and patches is not None and self.filter_size > 1 + patches:
            raise ValueError(
                f"filter_size is {self.filter_size}, but the vision tower gives {1 + patches} tokens "
                f"(1 pooled + {patches} patches): choose a filter_size between 1 and {1 + patches}."
            )


class _OneSideConfig(PIRConfig):
    """A [`PIRConfig`] read for one side of the model; the other side's numbers stay as they are."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration of this side: as it was saved, or made of the whole model's."""
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if values.get("model_type") == PIRConfig.model_type:
            values = {name: value for name, value in values.items() if name != "auto_map"}  # it names the whole model
            values["model_type"] = cls.model_type
        return values, kwargs


class PIRVisionConfig(_OneSideConfig):
    """Configuration of [`PIRVisionModelWithProjection`]: the fields of [`PIRConfig`]."""

    model_type = "pir_vision_model"


class PIRTextConfig(_OneSideConfig):
    """Configuration of [`PIRTextModelWithProjection`]: the fields of [`PIRConfig`]."""

    model_type = "pir_text_model"


__all__ = ["PIRConfig", "PIRTextConfig", "PIRVisionConfig"]
