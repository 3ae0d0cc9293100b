"""Encoders of other kinds than PIR, with random weights, as folders."""

import torch
from transformers import (
    BertConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from tests.support.tiny_clip import TINY_TEXT, TINY_VISION, save_clip

KINDS = ("CLIP", "SigLIP", "VisionTextDualEncoder")


def save_encoder(kind, folder, tokenizer):
    """One of `KINDS` with its processor; returns the folder's name."""
    if kind == "CLIP":
        return save_clip(folder, tokenizer)
    torch.manual_seed(0)
    text = TINY_TEXT | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "SigLIP":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=TINY_VISION))
        processor = SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    else:
        config = VisionTextDualEncoderConfig(
            vision_config=CLIPVisionConfig(**TINY_VISION).to_dict(),
            text_config=BertConfig(**text).to_dict(),
            projection_dim=12,
        )
        model = VisionTextDualEncoderModel(config)
        sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        processor = VisionTextDualEncoderProcessor(CLIPImageProcessor(**sizes), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
