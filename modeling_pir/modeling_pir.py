# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""PIR: a dual encoder for overhead images and captions, instructed by a prior trained on scenes.

Paper: "A Prior Instruction Representation Framework for Remote Sensing Image-text Retrieval", ACM MM 2023.
Official code: github.com/jaychempan/PIR at e3faeda (MIT). This is an independent implementation from its description;
names in back-ticks after "official" are that code's.
"""

import inspect
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_pir import PIRConfig, num_patches
from .layers_pir import LCA
from .loss_pir import affiliation_loss, contrastive_loss, same_caption_targets, same_image_targets, triplet_loss
from .towers_pir import (
    PIRImageFeatures,
    PIRPreTrainedModel,
    PIRTextSide,
    PIRVisionSide,
    build_tower,
    count_prefix_tokens,
    find_tower_class,
    tower_width,
)

MAX_LOGIT_SCALE = 100.0  # CLIP's bound: below a temperature of 0.01 training gets unstable
MAX_LOG_SCALE = math.log(MAX_LOGIT_SCALE) - 1e-6  # just below: on the bound itself clamp has no gradient


@dataclass
class PIROutput(ModelOutput):
    """Output of [`PIRModel`].

    Attributes:
        loss: contrastive loss + affiliation_weight * affiliation loss; with `return_loss=True`.
        contrastive_loss: the first part.
        affiliation_loss: the second part, unweighted; where scene labels were given.
        logits_per_image: (images, texts) cosine similarity times the logit scale.
        logits_per_text: (texts, images), its transpose.
        image_embeds: (images, projection_dim) unit norm, in the weights' precision (float32 under autocast).
        text_embeds: (texts, projection_dim) unit norm, in the weights' precision.
        belief_scores: (images, 1 + patches), see [`PIRImageFeatures`].
        filtered_indices: (images, filter_size), see [`PIRImageFeatures`].
        vision_model_output: the vision tower's output.
        text_model_output: the text tower's output.
        instruction_model_output: the instruction tower's output.
    """

    loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    affiliation_loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    belief_scores: torch.FloatTensor | None = None
    filtered_indices: torch.LongTensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    instruction_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """All fields that are set, nested outputs as tuples."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class PIRLosses:
    """The scalars of [`PIRModel.compute_loss`]; `affiliation_loss` is None where no scene labels were given."""

    loss: torch.Tensor
    contrastive_loss: torch.Tensor
    affiliation_loss: torch.Tensor | None


class PIRModel(PIRVisionSide, PIRTextSide, PIRPreTrainedModel):
    """PIR (paper, figure 2): two towers, an instructed vision side (VIR), a cyclic text side (LCA).

    image_embeds = unit(v_cls + v_loc) and text_embeds = unit(t_cls + t_loc), where v_cls and t_cls are the projected
    image and sentence tokens. The vision tower may be any model of transformers that gives patch tokens, the text tower
    any whose first token represents the sentence (BERT and its relatives) or that pools by itself (CLIP).

    Args:
        config: of the architecture; the weights are random.

    Raises:
        ValueError: a tower that cannot be built from its configuration.

    Example:
    ```python
    >>> from modeling_pir import PIRModel, PIRProcessor

    >>> model = PIRModel.from_pretrained("hub_configs/pir-small-rsicd")  # a folder or a Hub id
    >>> processor = PIRProcessor.from_pretrained("hub_configs/pir-small-rsicd")
    >>> texts = ["planes at an airport", "a green forest"]
    >>> outputs = model(**processor(images=image, text=texts, return_tensors="pt"))  # a PIL image or a path
    >>> outputs.logits_per_image.shape  # (images, texts)
    torch.Size([1, 2])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^affiliation_logit_scale$"]  # of a model fine-tuned without that loss

    def __init__(self, config: PIRConfig) -> None:
        super().__init__(config)
        self.vision_model = build_tower(config.vision_config, "vision")
        self._build_text_tower(config)
        self.num_prefix_tokens = count_prefix_tokens(self.vision_model)
        self.visual_projection = nn.Linear(tower_width(self.vision_model), config.projection_dim)
        self.text_projection = nn.Linear(tower_width(self.text_model), config.projection_dim)
        self._build_instruction(config)
        self.lca = LCA(config) if config.num_cycles else None
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.affiliation_logit_scale = None
        if config.affiliation_weight > 0:
            self.affiliation_logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @classmethod
    def from_backbones(
        cls, vision: str, text: str, instruction: str | None = None, **config_kwargs: object
    ) -> "PIRModel":
        """Start from pretrained towers; VIR, LCA and the projections are random.

        Args:
            vision: Hub id or folder of a vision model (Swin, `timm/...`), or of a dual encoder for its vision tower.
            text: Hub id or folder of a text model (or a dual encoder).
            instruction: Hub id or folder of the prior; None only if the model has no instruction.
            config_kwargs: fields of [`PIRConfig`]. `filter_size` defaults to 80 % of the tokens (the paper's 40 of 50)
                if the tower's configuration gives their number (timm's do not).

        Returns:
            The model, in evaluation mode as after `from_pretrained`.

        Raises:
            ValueError: a tower's weights are missing from its checkpoint, or an instruction is missing.
        """
        towers = {"vision": load_tower(vision, "vision"), "text": load_tower(text, "text")}
        if instruction is not None:
            towers["instruction"] = load_tower(instruction, "vision")
        for tower in towers.values():  # saved with the model; a folder means something on this machine alone
            if os.path.isdir(tower.config.name_or_path):
                tower.config.name_or_path = os.path.basename(os.path.normpath(tower.config.name_or_path))
        patches = num_patches(towers["vision"].config)
        if patches is not None:
            config_kwargs.setdefault("filter_size", round(0.8 * (1 + patches)))
        config = PIRConfig(**{f"{name}_config": tower.config for name, tower in towers.items()}, **config_kwargs)
        if config.has_instruction and instruction is None:
            raise ValueError(
                "PIR instructs its vision side with a prior, but no instruction model was given: pass "
                "instruction=..., or num_instruction_layers=0 for a model without VIR."
            )
        model = cls(config)
        for name, tower in towers.items():
            if getattr(model, f"{name}_model") is not None:
                getattr(model, f"{name}_model").load_state_dict(tower.state_dict())
        return model.eval()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.affiliation_logit_scale is not None:
                init.constant_(self.affiliation_logit_scale, self.config.logit_scale_init_value)

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Freeze what does not train; the last hook of building and of `from_pretrained`, which replaces parameters."""
        super().tie_weights(*args, **kwargs)
        if self.config.contrastive_objective == "triplet":
            self.logit_scale.requires_grad_(False)  # not in the loss: processes would wait for its gradient

    def enable_input_require_grads(self) -> None:
        """Make both towers' first outputs require gradients (for adapters with gradient checkpointing).

        transformers' own version hooks `SwinPatchEmbeddings`, whose output is a tuple, and fails.
        """
        modules = [self.get_input_embeddings()]
        modules += [module for module in self.vision_model.modules() if isinstance(module, nn.Conv2d)][:1]
        self._require_grads_hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))
            for module in modules
        ]
        self._require_grads_hook = self._require_grads_hooks[0]

    def compute_loss(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_ids: torch.LongTensor | None = None,
        scene_labels: torch.LongTensor | None = None,
        process_ids: torch.LongTensor | None = None,
        caption_ids: torch.LongTensor | None = None,
    ) -> PIRLosses:
        """Losses of a batch, which may be gathered from several processes (paper, L = L_c + lambda L_a).

        Args:
            image_embeds: (images, dim) unit norm.
            text_embeds: (images * n, dim) unit norm; rows i * n .. (i + 1) * n - 1 describe image i.
            image_ids: (images,) long; rows with one id show one image and share their captions. None: all differ.
            scene_labels: (images,) long, -1 for unknown; None leaves the affiliation loss out.
            process_ids: (images,) long, the process each image came from, for `affiliation_centers="local"`.
            caption_ids: (images * n,) long, equal for equal captions (of [`caption_keys`]), for
                `identical_captions="positives"`; None: no caption is taken for another.

        Returns:
            [`PIRLosses`].

        Raises:
            ValueError: the number of texts is not a multiple of the number of images.
        """
        captions_per_image, rest = divmod(text_embeds.shape[0], image_embeds.shape[0])
        if rest or not captions_per_image:
            raise ValueError(
                f"The loss needs the same number of captions for every image, but got {text_embeds.shape[0]} texts for "
                f"{image_embeds.shape[0]} images: repeat an image for each of its captions, or give all n of each."
            )
        if image_ids is None:
            image_ids = torch.arange(image_embeds.shape[0], device=image_embeds.device)
        with torch.autocast(image_embeds.device.type, enabled=False):  # products of bfloat16 would coarsen the gradient
            embeds = image_embeds.float(), text_embeds.float()
            return self._losses(*embeds, image_ids, scene_labels, process_ids, caption_ids)

    def _losses(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_ids: torch.Tensor,
        scene_labels: torch.Tensor | None,
        process_ids: torch.Tensor | None,
        caption_ids: torch.Tensor | None,
    ) -> PIRLosses:
        """[`PIRModel.compute_loss`] in float32."""
        config, captions_per_image = self.config, len(text_embeds) // len(image_embeds)
        positives = same_image_targets(image_ids, image_ids.repeat_interleave(captions_per_image))
        if config.identical_captions == "positives" and caption_ids is not None:
            positives = torch.maximum(positives, same_caption_targets(caption_ids, image_embeds.shape[0]))
        similarity = image_embeds @ text_embeds.T
        if config.contrastive_objective == "triplet":
            contrastive = triplet_loss(similarity, positives, config.triplet_margin)
        else:
            contrastive = contrastive_loss(self._scale(self.logit_scale) * similarity, positives)
        if scene_labels is None or self.affiliation_logit_scale is None:
            return PIRLosses(contrastive, contrastive, None)
        affiliation = affiliation_loss(
            image_embeds,
            text_embeds,
            scene_labels,
            self._scale(self.affiliation_logit_scale),
            config.affiliation_targets,
            process_ids if config.affiliation_centers == "local" else None,
        )
        return PIRLosses(contrastive + config.affiliation_weight * affiliation, contrastive, affiliation)

    @staticmethod
    def _scale(logit_scale: torch.Tensor) -> torch.Tensor:
        """The factor, at most 100."""
        return logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)

    @torch.no_grad()
    def clamp_logit_scales(self) -> None:
        """Bring both logit scales back to CLIP's bound, at most 100; call it after each step of the optimiser."""
        for scale in (self.logit_scale, self.affiliation_logit_scale):
            if scale is not None:
                scale.clamp_(max=MAX_LOG_SCALE)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        image_ids: torch.LongTensor | None = None,
        scene_labels: torch.LongTensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PIROutput:
        """Embed images and texts and compare every image with every text.

        Args:
            input_ids: (texts, length) long.
            pixel_values: (images, 3, height, width), normalised RGB.
            attention_mask: (texts, length), 1 for a token and 0 for padding.
            token_type_ids: (texts, length).
            position_ids: (texts, length).
            image_ids: (images,) long, see [`PIRModel.compute_loss`].
            scene_labels: (images,) long, see [`PIRModel.compute_loss`].
            return_loss: whether to compute the losses; every image then needs the same number of texts.
            kwargs: passed to the vision and text towers.

        Returns:
            [`PIROutput`].

        Raises:
            ValueError: images or texts are missing.
        """
        if input_ids is None or pixel_values is None:
            missing = "input_ids" if input_ids is None else "pixel_values"
            raise ValueError(
                f"{missing} is missing: forward compares images with texts. For one side alone call "
                "get_image_features or get_text_features."
            )
        image_outputs = self.get_image_features(pixel_values, return_dict=True, **kwargs)
        text_outputs = self.get_text_features(
            input_ids, attention_mask, token_type_ids, position_ids, return_dict=True, **kwargs
        )
        image_embeds = F.normalize(image_outputs.pooler_output.float(), dim=-1)
        text_embeds = F.normalize(text_outputs.pooler_output.float(), dim=-1)
        with torch.autocast(image_embeds.device.type, enabled=False):
            logits_per_text = self._scale(self.logit_scale) * text_embeds @ image_embeds.T
        losses = None
        if return_loss:
            caption_ids = caption_keys(input_ids, attention_mask)
            losses = self.compute_loss(image_embeds, text_embeds, image_ids, scene_labels, caption_ids=caption_ids)
        return PIROutput(
            loss=None if losses is None else losses.loss,
            contrastive_loss=None if losses is None else losses.contrastive_loss,
            affiliation_loss=None if losses is None else losses.affiliation_loss,
            logits_per_image=logits_per_text.T.to(self.dtype),
            logits_per_text=logits_per_text.to(self.dtype),
            image_embeds=image_embeds.to(self.dtype),
            text_embeds=text_embeds.to(self.dtype),
            belief_scores=image_outputs.belief_scores,
            filtered_indices=image_outputs.filtered_indices,
            vision_model_output=image_outputs,
            text_model_output=text_outputs,
            instruction_model_output=image_outputs.instruction_model_output,
        )


def caption_keys(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """A number for each caption, (texts,) long, the same for the same tokens whatever they are padded to.

    A polynomial hash modulo 2**64: captions in batches of other lengths, as on other processes, can be compared.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    base = torch.full((input_ids.shape[1],), 0x5851F42D4C957F2D, dtype=torch.long, device=input_ids.device)
    return ((input_ids + 1) * attention_mask * base.cumprod(dim=0)).sum(dim=1)


def load_tower(name_or_path: str, part: str) -> PreTrainedModel:
    """A pretrained tower: a vision or text model, or that part of a dual encoder, with every one of its weights.

    Args:
        name_or_path: Hub id or folder.
        part: "vision" or "text".

    Raises:
        ValueError: some of the tower's weights are not in the checkpoint.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    config = getattr(config, f"{part}_config", config)
    tower_class = find_tower_class(config, part)
    kwargs = {"dtype": torch.float32}  # a checkpoint in half precision would give a model of mixed precision
    if part == "text" and "add_pooling_layer" in inspect.signature(tower_class.__init__).parameters:
        kwargs["add_pooling_layer"] = False
    tower, report = tower_class.from_pretrained(name_or_path, config=config, output_loading_info=True, **kwargs)
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        raise ValueError(
            f"{len(missing)} weights of the {part} tower are not in {name_or_path!r}, among them {missing[:3]}: it is "
            f"not a checkpoint of {tower_class.__name__}."
        )
    return tower


__all__ = ["PIRImageFeatures", "PIRModel", "PIROutput", "PIRPreTrainedModel"]
