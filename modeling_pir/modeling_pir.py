# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""PIR: a dual encoder of overhead images and their captions, instructed by a prior that knows scenes.

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
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_pir import PIRConfig, num_patches
from .layers_pir import LCA, VIR
from .loss_pir import affiliation_loss, contrastive_loss, same_caption_targets, same_image_targets, triplet_loss

MAX_LOGIT_SCALE = 100.0  # CLIP's bound: below a temperature of 0.01 training gets unstable


@dataclass
class PIRImageFeatures(BaseModelOutputWithPooling):
    """Output of [`PIRModel.get_image_features`].

    Attributes:
        last_hidden_state: of the vision tower.
        pooler_output: (batch, projection_dim), the image's embedding before normalisation.
        belief_scores: (batch, 1 + patches) float32, how far the instruction believes each token; rows sum to 1. Row 0
            is the pooled token, then the patches in raster order. None without instruction.
        filtered_indices: (batch, filter_size) long, the tokens kept, most believed first. None without instruction.
        instruction_model_output: the instruction tower's output. None without instruction.
    """

    belief_scores: torch.FloatTensor | None = None
    filtered_indices: torch.LongTensor | None = None
    instruction_model_output: BaseModelOutputWithPooling | None = None


@dataclass
class PIROutput(ModelOutput):
    """Output of [`PIRModel`].

    Attributes:
        loss: contrastive loss + affiliation_weight * affiliation loss; with `return_loss=True`.
        contrastive_loss: the first part.
        affiliation_loss: the second part, unweighted; where scene labels were given.
        logits_per_image: (images, texts) cosine similarity times the logit scale.
        logits_per_text: (texts, images), its transpose.
        image_embeds: (images, projection_dim) unit norm.
        text_embeds: (texts, projection_dim) unit norm.
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


def _build_tower(config: PreTrainedConfig, **kwargs: object) -> PreTrainedModel:
    """A tower with random weights; keyword arguments that its class does not take are left out."""
    accepted = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    model_kwargs = {name: value for name, value in kwargs.items() if name in accepted or name == "attn_implementation"}
    return AutoModel.from_config(config, **model_kwargs)


def tower_width(tower: PreTrainedModel) -> int:
    """Channels of a tower's tokens and of its pooled vector."""
    if hasattr(tower, "timm_model"):
        return tower.timm_model.num_features
    config = tower.config
    return config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size


def _num_prefix_tokens(tower: PreTrainedModel) -> int:
    """Class, distillation and register tokens that a vision tower puts in front of its patches."""
    if hasattr(tower, "timm_model"):
        return getattr(tower.timm_model, "num_prefix_tokens", 0)
    names = ("cls_token", "class_embedding", "distillation_token")
    own_tokens = sum(name.endswith(names) for name, _ in tower.named_parameters())
    return own_tokens + getattr(tower.config, "num_register_tokens", 0)


class PIRPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config: PIRConfig
    base_model_prefix = "pir"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PIRTransformerEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = False  # Swin has none
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise PIR's own modules as PyTorch does by default, like the official code; towers do their own."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, PIRModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.affiliation_logit_scale is not None:
                init.constant_(module.affiliation_logit_scale, self.config.logit_scale_init_value)


class PIRModel(PIRPreTrainedModel):
    """PIR (paper, figure 2): two towers, an instructed vision side (VIR), a cyclic text side (LCA).

    image_embeds = unit(v_cls + v_loc) and text_embeds = unit(t_cls + t_loc), where v_cls and t_cls are the projected
    image and sentence tokens. The vision tower may be any model of transformers that gives patch tokens, the text tower
    any whose first token has read the whole sentence (BERT and its kin) or that pools one that has (CLIP).
    """

    def __init__(self, config: PIRConfig) -> None:
        super().__init__(config)
        self.vision_model = _build_tower(config.vision_config)
        # BERT's pooler is a head for next-sentence prediction, not a pooled sentence: row 0 is read instead.
        self.text_model = _build_tower(config.text_config, add_pooling_layer=False)
        if not config.mask_padding:  # what takes part learns its embedding, which towers keep from their padding
            self.text_model.get_input_embeddings().padding_idx = None
        self.num_prefix_tokens = _num_prefix_tokens(self.vision_model)
        self.text_takes_token_types = "token_type_ids" in inspect.signature(self.text_model.forward).parameters
        self.visual_projection = nn.Linear(tower_width(self.vision_model), config.projection_dim)
        self.text_projection = nn.Linear(tower_width(self.text_model), config.projection_dim)
        self.instruction_model, self.instruction_projection, self.vir, self.lca = None, None, None, None
        if config.has_instruction:
            # Convolutional towers have no attention to choose, and refuse an explicit choice.
            self.instruction_model = _build_tower(config.instruction_config, attn_implementation="eager")
            self.instruction_projection = nn.Linear(tower_width(self.instruction_model), config.projection_dim)
        if config.num_instruction_layers:
            self.vir = VIR(config)
        if config.num_cycles:
            self.lca = LCA(config)
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
            vision: Hub id or folder of a vision model (Swin, `timm/...`, or a dual encoder whose vision tower is used).
            text: Hub id or folder of a text model (or a dual encoder).
            instruction: Hub id or folder of the prior; None only without VIR's instruction.
            config_kwargs: fields of [`PIRConfig`]. `filter_size` defaults to 80 % of the tokens, as 40 of 50, where the
                tower's configuration tells their number (timm's do not).

        Returns:
            The model, in evaluation mode like every `from_pretrained`.

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

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Freeze what does not train; the last hook of building and of `from_pretrained`, which replaces parameters."""
        super().tie_weights(*args, **kwargs)
        if self.config.contrastive_objective == "triplet":
            self.logit_scale.requires_grad_(False)  # not in the loss: processes would wait for its gradient
        if self.instruction_model is not None and self.config.freeze_instruction_encoder:
            self.instruction_model.requires_grad_(False)

    def train(self, mode: bool = True) -> "PIRModel":
        """Set training mode, but keep a frozen prior's BatchNorm on its own statistics."""
        super().train(mode)
        config = self.config
        if self.instruction_model is not None and config.freeze_instruction_encoder:
            self.instruction_model.train(mode and not config.freeze_instruction_batch_norm)
        return self

    def set_attn_implementation(self, attn_implementation: str | dict, *args: object, **kwargs: object) -> None:
        """Switch the attention of both towers, VIR and LCA; the prior, which may have none to switch, keeps its own."""
        if isinstance(attn_implementation, str):
            attn_implementation = dict.fromkeys(("", "vision_config", "text_config"), attn_implementation)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text tower."""
        self.text_model.set_input_embeddings(value)

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

    def _image_tokens(self, outputs: BaseModelOutputWithPooling) -> torch.Tensor:
        """Projected vision tokens (batch, 1 + patches, dim): row 0 pooled, then the grid in raster order."""
        tokens = outputs.last_hidden_state
        if tokens.dim() == 4:  # timm: (batch, rows, cols, width); convolutional towers: (batch, width, rows, cols)
            width = self.visual_projection.in_features
            tokens = tokens if tokens.shape[-1] == width else tokens.permute(0, 2, 3, 1)
            tokens = tokens.flatten(1, 2)
        patches = tokens[:, self.num_prefix_tokens :]
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None:
            pooled = tokens[:, 0] if self.num_prefix_tokens else patches.mean(dim=1)
        pooled = pooled.flatten(1)  # convolutional towers: (batch, width, 1, 1)
        return self.visual_projection(torch.cat([pooled[:, None], patches], dim=1))

    def _instruct(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, BaseModelOutputWithPooling]:
        """The prior's projected scene feature (batch, dim), and its output."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_instruction_encoder):
            outputs = self.instruction_model(pixel_values, return_dict=True)
        return self.instruction_projection(outputs.pooler_output.flatten(1)), outputs

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed images.

        Args:
            pixel_values: (batch, 3, height, width), normalised RGB from the processor.
            kwargs: passed to the vision tower (`output_attentions`, `output_hidden_states`...).

        Returns:
            [`PIRImageFeatures`]; `pooler_output` (batch, projection_dim) is the image's embedding, NOT of unit norm.

        Example:
        ```python
        >>> features = model.get_image_features(**processor(images=image, return_tensors="pt"))
        >>> image_embeds = torch.nn.functional.normalize(features.pooler_output, dim=-1)
        ```
        """
        # The same numbers in another order in memory, in which convolutions are faster, most of all in bfloat16.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        vision_outputs = self.vision_model(pixel_values, return_dict=True, **kwargs)
        image_tokens = self._image_tokens(vision_outputs)  # (batch, 1 + patches, dim)
        instruction_embeds, instruction_outputs, belief_scores, filtered_indices = None, None, None, None
        image_features = image_tokens[:, 0]
        if self.instruction_model is not None:
            instruction_embeds, instruction_outputs = self._instruct(pixel_values)
        if self.vir is not None:
            local_features, belief_scores, filtered_indices = self.vir(image_tokens, instruction_embeds)
            image_features = image_features + local_features
        return PIRImageFeatures(
            last_hidden_state=vision_outputs.last_hidden_state,
            pooler_output=image_features,
            hidden_states=vision_outputs.hidden_states,
            attentions=getattr(vision_outputs, "attentions", None),
            belief_scores=belief_scores,
            filtered_indices=filtered_indices,
            instruction_model_output=instruction_outputs,
        )

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed texts.

        Args:
            input_ids: (batch, length) long.
            attention_mask: (batch, length), 1 for a token and 0 for padding; None takes every position for a token.
            token_type_ids: (batch, length), for towers that take it.
            position_ids: (batch, length) or (1, length).
            kwargs: passed to the text tower.

        Returns:
            BaseModelOutputWithPooling; `pooler_output` (batch, projection_dim), the text's embedding, NOT of unit norm.
        """
        if not self.config.mask_padding:
            attention_mask = None
        if token_type_ids is not None and self.text_takes_token_types:
            kwargs["token_type_ids"] = token_type_ids
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        states = outputs.last_hidden_state
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None and self.config.text_pooling == "mean":
            pooled = _mean_of_tokens(states, attention_mask)
        if pooled is not None:  # a causal tower (CLIP's): its first row has read nothing, so the pooled vector goes in
            states = torch.cat([pooled[:, None], states], dim=1)  # front, as for images
            if attention_mask is not None:
                attention_mask = F.pad(attention_mask, (1, 0), value=1)
        text_tokens = self.text_projection(states)  # (batch, tokens, dim)
        text_features = text_tokens[:, 0]
        if self.lca is not None:
            mask = create_bidirectional_mask(self.config, text_tokens, attention_mask)
            text_features = text_features + self.lca(text_tokens, mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=text_features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

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
            ValueError: the texts are not a whole number per image.
        """
        captions_per_image, rest = divmod(text_embeds.shape[0], image_embeds.shape[0])
        if rest or not captions_per_image:
            raise ValueError(
                f"The loss needs the same number of captions for every image, but got {text_embeds.shape[0]} texts for "
                f"{image_embeds.shape[0]} images: repeat an image for each of its captions, or give all n of each."
            )
        config = self.config
        if image_ids is None:
            image_ids = torch.arange(image_embeds.shape[0], device=image_embeds.device)
        positives = same_image_targets(image_ids, image_ids.repeat_interleave(captions_per_image))
        if config.identical_captions == "positives" and caption_ids is not None:
            positives = torch.maximum(positives, same_caption_targets(caption_ids, image_embeds.shape[0]))
        similarity = image_embeds.float() @ text_embeds.float().T
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
        return logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)

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
        """Embed images and texts and compare each with each.

        Args:
            input_ids: (texts, length) long.
            pixel_values: (images, 3, height, width), normalised RGB.
            attention_mask: (texts, length), 1 for a token and 0 for padding.
            token_type_ids: (texts, length).
            position_ids: (texts, length).
            image_ids: (images,) long, see [`PIRModel.compute_loss`].
            scene_labels: (images,) long, see [`PIRModel.compute_loss`].
            return_loss: whether to compute the losses; then texts have to be a whole number per image.
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
        image_embeds = F.normalize(image_outputs.pooler_output, dim=-1)
        text_embeds = F.normalize(text_outputs.pooler_output, dim=-1)
        logits_per_text = self._scale(self.logit_scale).to(text_embeds.dtype) * text_embeds @ image_embeds.T
        losses = None
        if return_loss:
            caption_ids = caption_keys(input_ids, attention_mask)
            losses = self.compute_loss(image_embeds, text_embeds, image_ids, scene_labels, caption_ids=caption_ids)
        return PIROutput(
            loss=None if losses is None else losses.loss,
            contrastive_loss=None if losses is None else losses.contrastive_loss,
            affiliation_loss=None if losses is None else losses.affiliation_loss,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            belief_scores=image_outputs.belief_scores,
            filtered_indices=image_outputs.filtered_indices,
            vision_model_output=image_outputs,
            text_model_output=text_outputs,
            instruction_model_output=image_outputs.instruction_model_output,
        )


def _mean_of_tokens(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over the tokens, (batch, tokens, width) to (batch, width), padding left out."""
    if attention_mask is None:
        return states.mean(dim=1)
    weights = attention_mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


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
    tower_class = MODEL_MAPPING[type(config)]
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
