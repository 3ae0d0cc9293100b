# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Convert pretrained weights in their authors' layout (Swin, ResNet, EfficientNet `.pth`) to a tower for transformers.

The official recipe starts from Microsoft's `swin_tiny_patch4_window7_224_22k.pth` and from a ResNet-50 that was trained
on the scenes of AID or RSP (torchvision's names). Convert a file once, then use the folder like a Hub id:

    python -m modeling_pir.convert.backbones swin_tiny_patch4_window7_224_22k.pth towers/swin
    PIRModel.from_backbones("towers/swin", "google-bert/bert-base-uncased", "towers/resnet")

Every key has to find its place. The official code loads such files with `strict=False`, and because it wraps its
ResNet, none of the 318 tensors of the file it names arrives.
"""

import argparse
import math
import re
from functools import partial
from pathlib import Path

from transformers import AutoModel, PreTrainedModel, ResNetConfig, ResNetModel, SwinConfig, SwinModel

from ..errors import one_sentence
from ..hub.whole_folder import whole_folder
from ..modeling_pir import PIRModel
from .efficientnet import build_efficientnet, efficientnet_names
from .state_dict import (
    CLASSIFIER_KEYS,
    NUM_PRINTED_KEYS,
    KeyTable,
    State,
    count_children,
    load_strictly,
    read_checkpoint,
    rename_key,
    rename_tensors,
    shape_of,
    state_dict_of,
)

# What follows a match stays as it is (weight, bias, running_mean...). `attn.qkv` is split in three afterwards.
SWIN_KEYS: KeyTable = {
    r"patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"patch_embed\.norm\.": "embeddings.norm.",
    r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.": r"encoder.layers.\1.blocks.\2.layernorm_before.",
    r"layers\.(\d+)\.blocks\.(\d+)\.norm2\.": r"encoder.layers.\1.blocks.\2.layernorm_after.",
    r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.blocks.\2.mlp.",
    r"layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.blocks.\2.attention.qkv.",
    r"layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.blocks.\2.attention.o_proj.",
    r"layers\.(\d+)\.blocks\.(\d+)\.attn\.(?=rel)": r"encoder.layers.\1.blocks.\2.attention.relative_position_bias.",
    r"layers\.(\d+)\.downsample\.": r"encoder.layers.\1.downsample.",
    r"norm\.": "layernorm.",
}
# torchvision counts stages and the convolutions of a block from 1, transformers from 0.
RESNET_KEYS: KeyTable = {
    r"conv1\.": "embedder.embedder.convolution.",
    r"bn1\.": "embedder.embedder.normalization.",
    r"layer(\d+)\.(\d+)\.conv(\d)\.": lambda key: _resnet_block(key) + f"layer.{int(key[3]) - 1}.convolution.",
    r"layer(\d+)\.(\d+)\.bn(\d)\.": lambda key: _resnet_block(key) + f"layer.{int(key[3]) - 1}.normalization.",
    r"layer(\d+)\.(\d+)\.downsample\.0\.": lambda key: _resnet_block(key) + "shortcut.convolution.",
    r"layer(\d+)\.(\d+)\.downsample\.1\.": lambda key: _resnet_block(key) + "shortcut.normalization.",
}


def _resnet_block(key: re.Match) -> str:
    return f"encoder.stages.{int(key[1]) - 1}.layers.{key[2]}."


def swin_config(state: State, image_size: int) -> SwinConfig:
    """Sizes of a Swin from its tensors, in Microsoft's names.

    Args:
        state: the tensors.
        image_size: pixels, where the tensors do not show it (the mask of a shifted block does).
    """
    embed_dim, _, _, patch_size = shape_of(state, "patch_embed.proj.weight")
    depths = [count_children(state, f"layers.{stage}.blocks.") for stage in range(count_children(state, "layers."))]
    tables = [
        shape_of(state, f"layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in range(len(depths))
    ]
    window_size = (math.isqrt(tables[0][0]) + 1) // 2
    mask = state.get("layers.0.blocks.1.attn_mask")  # (windows, window area, window area)
    if mask is not None:
        image_size = math.isqrt(mask.shape[0]) * window_size * patch_size
    return SwinConfig(
        image_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=[table[1] for table in tables],
        window_size=window_size,
        mlp_ratio=shape_of(state, "layers.0.blocks.0.mlp.fc1.weight")[0] / embed_dim,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
    )


def resnet_config(state: State) -> ResNetConfig:
    """Sizes of a ResNet from its tensors, in torchvision's names."""
    stages = range(1, count_children(state, "layer"))
    last = "conv3" if "layer1.0.conv3.weight" in state else "conv2"
    return ResNetConfig(
        layer_type="bottleneck" if last == "conv3" else "basic",
        embedding_size=shape_of(state, "conv1.weight")[0],
        depths=[count_children(state, f"layer{stage}.") for stage in stages],
        hidden_sizes=[shape_of(state, f"layer{stage}.0.{last}.weight")[0] for stage in stages],
    )


def _microsoft_names(state: State) -> State:
    """A Swin's tensors in Microsoft's names; timm counts a downsampling to the stage behind it."""
    if any(key.startswith("layers.0.downsample.") for key in state):
        return state
    pattern = re.compile(r"^layers\.(\d+)\.downsample\.")
    return {
        pattern.sub(lambda key: f"layers.{int(key[1]) - 1}.downsample.", key): value for key, value in state.items()
    }


def convert_backbone(path: str | Path) -> tuple[PreTrainedModel, str]:
    """Read a Swin (Microsoft's or timm's names), a ResNet (torchvision's or timm's) or an EfficientNet from a `.pth`.

    Args:
        path: the file, `{'model': state dict}` or a bare state dict; a classifier in it is left out.

    Returns:
        The tower, a SwinModel, a ResNetModel or timm's EfficientNet, and a line that says what was loaded.

    Raises:
        ValueError: the file cannot be read, or is none of them.
        KeyMismatchError: keys are missing or left over.
    """
    state = state_dict_of(read_checkpoint(path), path)
    body = {key: value for key, value in state.items() if not CLASSIFIER_KEYS.match(key)}
    if "patch_embed.proj.weight" in body and "layers.0.blocks.0.attn.qkv.weight" in body:
        body = _microsoft_names(body)
        tower, rename = SwinModel(swin_config(body, image_size=224)), partial(rename_key, table=SWIN_KEYS)
    elif "conv1.weight" in body and "layer1.0.conv1.weight" in body:
        tower, rename = ResNetModel(resnet_config(body)), partial(rename_key, table=RESNET_KEYS)
    elif "_conv_stem.weight" in body:
        tower = build_efficientnet(body)
        rename = efficientnet_names(body, tower).get
    else:
        keys = ", ".join(list(state)[:NUM_PRINTED_KEYS])
        raise ValueError(
            f"{str(path)!r} is neither a Swin nor a ResNet nor an EfficientNet; its first keys are {keys}."
        )
    renamed, unknown = rename_tensors(body, rename)
    load_strictly(tower, renamed, unknown, repr(str(path)))
    dropped = [key for key in state if CLASSIFIER_KEYS.match(key)]
    without = f", without its classifier ({', '.join(dropped)})" if dropped else ""
    return tower.eval(), f"{len(renamed)} tensors of {type(tower).__name__} from {path}{without}"


def load_instruction_weights(model: PIRModel, path: str | Path) -> str:
    """Start the instruction encoder of a model from a file or a folder.

    Args:
        model: a PIR with an instruction tower; changed in place.
        path: a ResNet's `.pth` file, or a folder of a tower that was saved with `save_pretrained`.

    Returns:
        A line that says what was loaded.

    Raises:
        ValueError: the model has no instruction tower, or the file cannot be read.
        KeyMismatchError: a key is missing, left over or of another shape; then nothing is loaded.
    """
    tower = model.instruction_model
    if tower is None:
        raise ValueError("This model has no instruction tower to load weights into (no VIR, or use_instruction=False).")
    if Path(path).is_dir():
        source = AutoModel.from_pretrained(path)
        report = f"{len(source.state_dict())} tensors of {type(source).__name__} from {path}"
    elif hasattr(tower, "timm_model"):  # timm's names are torchvision's
        state = state_dict_of(read_checkpoint(path), path)
        body = {key: value for key, value in state.items() if not CLASSIFIER_KEYS.match(key)}
        load_strictly(tower.timm_model, body, [], repr(str(path)))
        return f"{len(body)} tensors of {type(tower.timm_model).__name__} from {path}"
    else:
        source, report = convert_backbone(path)
    load_strictly(tower, source.state_dict(), [], repr(str(path)))
    return report


def main() -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser("python -m modeling_pir.convert.backbones", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a Swin, ResNet or EfficientNet .pth file")
    parser.add_argument("out_dir", help="folder to write, which from_backbones and --init-instruction take")
    args = parser.parse_args()
    with one_sentence():
        with whole_folder(args.out_dir) as folder:
            tower, report = convert_backbone(args.checkpoint)
            tower.save_pretrained(folder)
    print(f"{report} -> {args.out_dir}")


if __name__ == "__main__":
    main()
