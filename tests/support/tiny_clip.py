"""A CLIP of random weights."""

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

TINY_TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 24,
}  # fmt: skip
TINY_VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def save_clip(folder, tokenizer, seed=0):
    """A CLIP of random weights with its processor, as a folder."""
    torch.manual_seed(seed)
    text = TINY_TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.sep_token_id}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=TINY_VISION, projection_dim=12))
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return str(folder)
