"""PIR's embeddings as research code computes them: every row of the cross-attentions, although one is used."""

import torch
import torch.nn.functional as F
from transformers.masking_utils import create_bidirectional_mask

from modeling_pir import PIRModel


def plain_image_embeds(model: PIRModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Embed images with whole cross-attentions: (images, 3, height, width) to (images, dim), unit norm."""
    image_tokens = model._image_tokens(model.vision_model(pixel_values, return_dict=True))
    features = image_tokens[:, 0]
    if model.vir is not None:
        rows = image_tokens
        if model.instruction_model is not None:
            instruction, _ = model._instruct(pixel_values)
            rows, _, _ = model.vir.filter(image_tokens, instruction)
        for layer in model.vir.layers:
            query = rows if model.instruction_model is None else instruction[:, None].expand_as(rows).contiguous()
            rows = layer(rows, query)
        features = features + model.vir.head(rows[:, 0])
    return F.normalize(features, dim=-1)


def plain_text_embeds(model: PIRModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Embed texts with whole cross-attentions: ids and mask (texts, length) to (texts, dim), unit norm."""
    states = model.text_model(inputs["input_ids"], inputs["attention_mask"], return_dict=True).last_hidden_state
    rows = model.text_projection(states)
    features = rows[:, 0]
    if model.lca is not None:
        mask = create_bidirectional_mask(model.config, rows, inputs["attention_mask"])
        for layer in model.lca.layers:
            rows = layer(rows, rows, mask)
        features = features + model.lca.head(rows[:, 0])
    return F.normalize(features, dim=-1)
