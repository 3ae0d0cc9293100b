# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Convert EfficientNets named as in efficientnet_pytorch (B0 to B7, Lite0 to Lite4) to timm towers.

Both name the same layers, but efficientnet_pytorch counts the blocks through and numbers a block's norms by what is in
front of them, timm by stage and in their order. The images' mean and standard deviation go with the tower.
"""

import re

from transformers import TimmWrapperConfig, TimmWrapperModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .state_dict import State, count_children, shape_of

# (Blocks, width of the last one) -> the member of the family. Lite has no squeeze-and-excitation.
SIZES = {
    (16, 320): "b0", (23, 320): "b1", (23, 352): "b2", (26, 384): "b3",
    (32, 448): "b4", (39, 512): "b5", (45, 576): "b6", (55, 640): "b7",
}  # fmt: skip
LITE_SIZES = {
    (16, 320): "lite0", (21, 320): "lite1", (21, 352): "lite2", (24, 384): "lite3", (30, 448): "lite4",
}  # fmt: skip
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
# A block without expansion has one convolution less in front.
EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
PLAIN_BLOCK = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip


def build_efficientnet(state: State) -> TimmWrapperModel:
    """A timm tower, random yet, of the size that the tensors show.

    Args:
        state: in the names of efficientnet_pytorch.

    Returns:
        The tower; its configuration holds the mean and standard deviation its images want: 0.5 for Lite, ImageNet's for
        B.

    Raises:
        ValueError: none of the family has these sizes.
    """
    num_blocks = count_children(state, "_blocks.")
    width = shape_of(state, f"_blocks.{num_blocks - 1}._project_conv.weight")[0]
    is_lite = "_blocks.0._se_reduce.weight" not in state
    member = (LITE_SIZES if is_lite else SIZES).get((num_blocks, width))
    if member is None:
        raise ValueError(
            f"No EfficientNet has {num_blocks} blocks, the last of width {width}: B0 to B7 and Lite0 to Lite4 can be "
            "converted."
        )
    mean, std = ([0.5] * 3, [0.5] * 3) if is_lite else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    images = {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "input_size": [3, 224, 224]}
    return TimmWrapperModel(TimmWrapperConfig(architecture=f"tf_efficientnet_{member}", pretrained_cfg=images))


def efficientnet_names(state: State, tower: TimmWrapperModel) -> dict[str, str]:
    """The names in the tower of the tensors that have a place there.

    Args:
        state: in the names of efficientnet_pytorch.
        tower: of [`build_efficientnet`].
    """
    blocks = (re.match(r"timm_model\.blocks\.\d+\.\d+", name) for name in tower.state_dict())
    places = list(dict.fromkeys(block[0] for block in blocks if block))  # in order, as the other side counts
    names = {}
    for key in state:
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key)
        if not block:
            layer, _, rest = key.partition(".")
            if layer in ENDS:
                names[key] = f"timm_model.{ENDS[layer]}.{rest}"
            continue
        table = EXPANDING_BLOCK if f"_blocks.{block[1]}._expand_conv.weight" in state else PLAIN_BLOCK
        if block[2] in table and int(block[1]) < len(places):
            names[key] = f"{places[int(block[1])]}.{table[block[2]]}.{block[3]}"
    return names
