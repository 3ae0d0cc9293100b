# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""One side of PIR: its layers, its features, and a model of that side that loads from a checkpoint of both."""

import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_pir import PIRConfig, PIRTextConfig, PIRVisionConfig
from .layers_pir import LCA, VIR


@dataclass
class PIRImageFeatures(BaseModelOutputWithPooling):
    """Output of [`PIRModel.get_image_features`].

    Attributes:
        last_hidden_state: of the vision tower.
        pooler_output: (batch, projection_dim), the image's embedding before normalisation.
        belief_scores: (batch, 1 + patches) float32, the weight the instruction gives each token; rows sum to 1. Column
            0 is the pooled token, then the patches in raster order. None without instruction.
        filtered_indices: (batch, filter_size) long, the tokens kept, highest belief first. None without instruction.
        instruction_model_output: the instruction tower's output. None without instruction.
    """

    belief_scores: torch.FloatTensor | None = None
    filtered_indices: torch.LongTensor | None = None
    instruction_model_output: BaseModelOutputWithPooling | None = None


@dataclass
class PIRVisionModelOutput(ModelOutput):
    """Output of [`PIRVisionModelWithProjection`].

    Attributes:
        image_embeds: (batch, projection_dim) unit norm.
        last_hidden_state: of the vision tower.
        pooler_output: (batch, projection_dim), `image_embeds` before normalisation.
        hidden_states: of the vision tower, where asked for.
        attentions: of the vision tower, where asked for.
        belief_scores: (batch, 1 + patches), see [`PIRImageFeatures`].
        filtered_indices: (batch, filter_size), see [`PIRImageFeatures`].
    """

    image_embeds: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    belief_scores: torch.FloatTensor | None = None
    filtered_indices: torch.LongTensor | None = None


@dataclass
class PIRTextModelOutput(ModelOutput):
    """Output of [`PIRTextModelWithProjection`].

    Attributes:
        text_embeds: (batch, projection_dim) unit norm.
        last_hidden_state: of the text tower.
        pooler_output: (batch, projection_dim), `text_embeds` before normalisation.
        hidden_states: of the text tower, where asked for.
        attentions: of the text tower, where asked for.
    """

    text_embeds: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


TOWER_ERRORS = (AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError)
MAIN_INPUTS = {"vision": "pixel_values", "instruction": "pixel_values", "text": "input_ids"}


def build_tower(config: PreTrainedConfig, side: str, **kwargs: object) -> PreTrainedModel:
    """A tower with random weights; keyword arguments that its class does not take are left out.

    Args:
        config: of any model of transformers.
        side: "vision" (the prior's, too) or "text".
        kwargs: of the tower's class.

    Raises:
        ValueError: no tower of this side, or a configuration that its class cannot be built from.
    """
    tower_class = find_tower_class(config, side)
    accepted = inspect.signature(tower_class.__init__).parameters
    model_kwargs = {name: value for name, value in kwargs.items() if name in accepted}
    attention = _attention_of(tower_class, config._attn_implementation)
    try:
        tower = tower_class._from_config(config, attn_implementation=attention, **model_kwargs)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The {side} tower ({config.model_type}) cannot be built from its configuration ({type(error).__name__}: "
            f"{reason}): give every field that {tower_class.__name__} needs."
        ) from error
    tower_width(tower)
    return tower


def find_tower_class(config: PreTrainedConfig, side: str) -> type[PreTrainedModel]:
    """The bare model of a configuration, if it can be a tower.

    Args:
        config: of any model of transformers.
        side: "vision" or "text".

    Raises:
        ValueError: a model of several parts, one without a bare class, or one that reads something else.
    """
    name = f"The {side} tower ({config.model_type})"
    if any(isinstance(value, PreTrainedConfig) for value in vars(config).values()):
        raise ValueError(f"{name} is a model of several parts: give the configuration of its {side} part alone.")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder with a decoder: give a model that is an encoder alone.")
    tower_class = MODEL_MAPPING.get(type(config), None)
    if tower_class is None:  # a part of a dual encoder, which AutoModel does not list: SiglipTextConfig
        tower_class = getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", None)
    if isinstance(tower_class, tuple):
        tower_class = tower_class[0]
    if tower_class is None:
        raise ValueError(f"{name} has no bare model in transformers: choose another model_type.")
    parameters = inspect.signature(tower_class.forward).parameters.values()
    needed = {one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
    own = MAIN_INPUTS[side]
    others = needed - {"self", own} or {tower_class.main_input_name} - {own}
    if others or own not in {one.name for one in parameters}:
        reads = ", ".join(sorted(others)) or "no such input"
        raise ValueError(f"{name} is none: {tower_class.__name__} needs {reads}, where a tower is given {own} alone.")
    return tower_class


def _attention_of(tower_class: type[PreTrainedModel], requested: str | None) -> str | None:
    """The requested attention where a tower has it; "eager" where it has none to choose, as convolutional ones."""
    return "eager" if requested == "sdpa" and not tower_class._supports_sdpa else requested


def tower_width(tower: PreTrainedModel) -> int:
    """Channels of a tower's tokens and of its pooled vector.

    Raises:
        ValueError: its configuration names no width.
    """
    if hasattr(tower, "timm_model"):
        return tower.timm_model.num_features
    config = tower.config
    width = config.hidden_sizes[-1] if getattr(config, "hidden_sizes", None) else getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(
            f"A tower of type {config.model_type} names no width (hidden_size, or hidden_sizes of its stages): choose "
            "another model_type."
        )
    return width


def _run_tower(tower: PreTrainedModel, side: str, inputs: torch.Tensor, **kwargs: object) -> ModelOutput:
    """What a tower gives for pixel values or token numbers.

    Raises:
        ValueError: it fails on what every tower is given, or gives no tokens of its width for each input; of the
            prior only the pooled vector is used.
    """
    name = f"The {side} tower ({tower.config.model_type})"
    try:
        outputs = tower(**{MAIN_INPUTS[side]: inputs}, return_dict=True, **kwargs)
    except TOWER_ERRORS as error:
        of_a_device = isinstance(error, RuntimeError) and type(error) not in TOWER_ERRORS  # lost, or out of memory
        if of_a_device or "DefaultCPUAllocator" in str(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"{name} fails on inputs of shape {tuple(inputs.shape)} ({reason}): give its configuration what "
            f"{type(tower).__name__} needs, or choose another model_type."
        ) from error
    width, num_inputs = tower_width(tower), inputs.shape[0]  # len() would fix the number in an exported program
    tokens, pooled = getattr(outputs, "last_hidden_state", None), getattr(outputs, "pooler_output", None)
    pooled_fits = pooled is not None and pooled.flatten(1).shape == (num_inputs, width)
    if side == "instruction":
        wanted, fits = "a pooled vector", pooled_fits
    else:
        wanted = "tokens"
        fits = isinstance(tokens, torch.Tensor) and tokens.dim() > 2 and tokens.shape[0] == num_inputs
        fits = fits and width in (tokens.shape[-1], tokens.shape[1]) and (pooled is None or pooled_fits)
    if not fits:
        shapes = [("tokens", tokens), ("a pooled vector", pooled)]
        found = [f"{what} of shape {tuple(one.shape)}" for what, one in shapes if isinstance(one, torch.Tensor)]
        raise ValueError(
            f"{name} has to give {wanted} of its width, {width}, for each of {num_inputs} inputs, but "
            f"{type(tower).__name__} gives {' and '.join(found) or 'none'}: choose another model_type."
        )
    return outputs


def count_prefix_tokens(tower: PreTrainedModel) -> int:
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

    def set_attn_implementation(self, attn_implementation: str | dict, *args: object, **kwargs: object) -> None:
        """Switch the attention of the towers, VIR and LCA; a tower without attention to choose keeps its own."""
        if isinstance(attn_implementation, str):
            towers = {part: getattr(self, f"{part}_model", None) for part in ("vision", "text", "instruction")}
            attn_implementation = {"": attn_implementation} | {
                f"{part}_config": _attention_of(type(tower), attn_implementation)
                for part, tower in towers.items()
                if tower is not None
            }
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


class PIRVisionSide:
    """What a model with PIR's image side can do; for [`PIRModel`] and [`PIRVisionModelWithProjection`]."""

    def _build_instruction(self, config: PIRConfig) -> None:
        """The prior and VIR, None where the configuration has none."""
        self.instruction_model, self.instruction_projection, self.vir = None, None, None
        if config.has_instruction:
            self.instruction_model = build_tower(config.instruction_config, "vision")
            self.instruction_projection = nn.Linear(tower_width(self.instruction_model), config.projection_dim)
        if config.num_instruction_layers:
            self.vir = VIR(config)

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Freeze what does not train; the last hook of building and of `from_pretrained`, which replaces parameters."""
        super().tie_weights(*args, **kwargs)
        if self.instruction_model is not None and self.config.freeze_instruction_encoder:
            self.instruction_model.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PIRVisionSide":
        """Set training mode, but leave what is frozen in evaluation mode: its statistics stay, its dropout is off.

        A module is frozen where none of its weights takes a gradient. The one exception is a frozen prior with
        `freeze_instruction_batch_norm=False`, the official code's way.
        """
        super().train(mode)
        for module in self.modules() if mode else ():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        if self.instruction_model is not None and not self.config.freeze_instruction_batch_norm:
            self.instruction_model.train(mode)
        return self

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
            outputs = _run_tower(self.instruction_model, "instruction", pixel_values)
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
        # In the weights' precision; in another order in memory, in which convolutions are faster, most in bfloat16.
        pixel_values = pixel_values.to(self.dtype).contiguous(memory_format=torch.channels_last)
        vision_outputs = _run_tower(self.vision_model, "vision", pixel_values, **kwargs)
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
            hidden_states=getattr(vision_outputs, "hidden_states", None),
            attentions=getattr(vision_outputs, "attentions", None),
            belief_scores=belief_scores,
            filtered_indices=filtered_indices,
            instruction_model_output=instruction_outputs,
        )


def _kept_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, positions: int) -> torch.Tensor:
    """Places (batch, positions) of the tokens that are kept of longer texts: the first ones, and each text's last."""
    length = input_ids.shape[1]
    if attention_mask is None:
        last = torch.full_like(input_ids[:, 0], length - 1)
    else:
        last = length - 1 - attention_mask.flip(1).argmax(dim=1)
    kept = torch.arange(positions, device=input_ids.device).repeat(len(input_ids), 1)
    kept[:, -1] = last.clamp(min=positions - 1)
    return kept


def _mean_of_tokens(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over the tokens, (batch, tokens, width) to (batch, width), padding left out."""
    if attention_mask is None:
        return states.mean(dim=1)
    weights = attention_mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


class PIRTextSide:
    """What a model with PIR's text side can do; for [`PIRModel`] and [`PIRTextModelWithProjection`]."""

    def _build_text_tower(self, config: PIRConfig) -> None:
        # BERT's pooler is a head for next-sentence prediction, not a pooled sentence: row 0 is read instead.
        self.text_model = build_tower(config.text_config, "text", add_pooling_layer=False)
        if not config.mask_padding:  # what takes part learns its embedding, which towers keep from their padding
            self.text_model.get_input_embeddings().padding_idx = None
        self.text_pools_last_place = config.text_config.model_type.startswith("siglip")
        self.text_takes_token_types = "token_type_ids" in inspect.signature(self.text_model.forward).parameters

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text tower."""
        self.text_model.set_input_embeddings(value)

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
            input_ids: (batch, length) long. A text longer than the tower has positions is cut to its first tokens and
                its last one (the end mark), as the processor cuts it; pipelines hand on whole texts.
            attention_mask: (batch, length), 1 for a token and 0 for padding; None takes every position for a token.
            token_type_ids: (batch, length), for towers that take it.
            position_ids: (batch, length) or (1, length).
            kwargs: passed to the text tower.

        Returns:
            BaseModelOutputWithPooling; `pooler_output` (batch, projection_dim), the text's embedding, NOT of unit norm.
        """
        positions = getattr(self.config.text_config, "max_position_embeddings", None)
        if positions is not None and position_ids is None and input_ids.shape[1] > positions:
            kept = _kept_tokens(input_ids, attention_mask, positions)  # (batch, positions)
            input_ids, attention_mask, token_type_ids = (
                tokens if tokens is None else tokens.gather(1, kept)
                for tokens in (input_ids, attention_mask, token_type_ids)
            )
        if self.text_pools_last_place and position_ids is None and input_ids.shape[1] < positions:
            # SigLIP pools whatever stands last, and was trained on texts that are padded to all its positions: without
            # them a text's embedding would depend on the longest one beside it.
            missing = (0, positions - input_ids.shape[1])
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            padding = self.config.text_config.pad_token_id or 0
            input_ids, attention_mask = F.pad(input_ids, missing, value=padding), F.pad(attention_mask, missing)
        if not self.config.mask_padding:
            attention_mask = None
        if token_type_ids is not None and self.text_takes_token_types:
            kwargs["token_type_ids"] = token_type_ids
        if position_ids is not None:  # which not every tower takes
            kwargs["position_ids"] = position_ids
        outputs = _run_tower(self.text_model, "text", input_ids, attention_mask=attention_mask, **kwargs)
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
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )


class PIRVisionModelWithProjection(PIRVisionSide, PIRPreTrainedModel):
    """The image side of [`PIRModel`] alone, for indexing an archive.

    `from_pretrained` takes the checkpoint of the whole model and does not read the text side's weights.

    Args:
        config: of the architecture; the weights are random.

    Example:
    ```python
    >>> from modeling_pir import PIRProcessor, PIRVisionModelWithProjection

    >>> model = PIRVisionModelWithProjection.from_pretrained("hub_configs/pir-small-rsicd")
    >>> processor = PIRProcessor.from_pretrained("hub_configs/pir-small-rsicd")
    >>> model(**processor(images=image, return_tensors="pt")).image_embeds.shape  # (images, dim), unit norm
    torch.Size([1, 384])
    ```
    """

    config: PIRVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^lca\.", r"logit_scale$"]

    def __init__(self, config: PIRVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = build_tower(config.vision_config, "vision")
        self.num_prefix_tokens = count_prefix_tokens(self.vision_model)
        self.visual_projection = nn.Linear(tower_width(self.vision_model), config.projection_dim)
        self._build_instruction(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that makes patches of an image."""
        return next(module for module in self.vision_model.modules() if isinstance(module, nn.Conv2d))

    @can_return_tuple
    def forward(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | PIRVisionModelOutput:
        """Embed images.

        Args:
            pixel_values: (batch, 3, height, width), normalised RGB from the processor.
            kwargs: passed to the vision tower.

        Returns:
            [`PIRVisionModelOutput`].
        """
        features = self.get_image_features(pixel_values, return_dict=True, **kwargs)
        return PIRVisionModelOutput(
            image_embeds=F.normalize(features.pooler_output.float(), dim=-1).to(self.dtype),
            last_hidden_state=features.last_hidden_state,
            pooler_output=features.pooler_output,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
            belief_scores=features.belief_scores,
            filtered_indices=features.filtered_indices,
        )


class PIRTextModelWithProjection(PIRTextSide, PIRPreTrainedModel):
    """The text side of [`PIRModel`] alone, for embedding queries.

    `from_pretrained` takes the checkpoint of the whole model and does not read the image side's weights.

    Args:
        config: of the architecture; the weights are random.

    Example:
    ```python
    >>> from modeling_pir import PIRProcessor, PIRTextModelWithProjection

    >>> model = PIRTextModelWithProjection.from_pretrained("hub_configs/pir-small-rsicd")
    >>> processor = PIRProcessor.from_pretrained("hub_configs/pir-small-rsicd")
    >>> model(**processor(text=["a forest"], return_tensors="pt")).text_embeds.shape  # (texts, dim), unit norm
    torch.Size([1, 384])
    ```
    """

    config: PIRTextConfig
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _keys_to_ignore_on_load_unexpected = [
        r"^vision_model\.", r"^visual_projection\.", r"^instruction_(model|projection)\.", r"^vir\.", r"logit_scale$",
    ]  # fmt: skip

    def __init__(self, config: PIRTextConfig) -> None:
        super().__init__(config)
        self._build_text_tower(config)
        self.text_projection = nn.Linear(tower_width(self.text_model), config.projection_dim)
        self.lca = LCA(config) if config.num_cycles else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PIRTextModelOutput:
        """Embed texts.

        Args:
            input_ids: (batch, length) long.
            attention_mask: (batch, length), 1 for a token and 0 for padding; None takes every position for a token.
            token_type_ids: (batch, length), for towers that take it.
            position_ids: (batch, length) or (1, length).
            kwargs: passed to the text tower.

        Returns:
            [`PIRTextModelOutput`].
        """
        features = self.get_text_features(
            input_ids, attention_mask, token_type_ids, position_ids, return_dict=True, **kwargs
        )
        return PIRTextModelOutput(
            text_embeds=F.normalize(features.pooler_output.float(), dim=-1).to(self.dtype),
            last_hidden_state=features.last_hidden_state,
            pooler_output=features.pooler_output,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
        )


__all__ = [
    "PIRImageFeatures",
    "PIRPreTrainedModel",
    "PIRTextModelOutput",
    "PIRTextModelWithProjection",
    "PIRVisionModelOutput",
    "PIRVisionModelWithProjection",
]
