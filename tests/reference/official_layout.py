"""Names, shapes and types of the tensors in an official PIR checkpoint of any size, and such a checkpoint, drawn.

`test_fidelity.py` holds the layout against the two recorded ones. The defaults are the published sizes:

    cd tests && python -m reference.official_layout full_size.pth     # 740 MB
"""

import sys
from dataclasses import dataclass, field

import torch

from tests.reference.official_checkpoint import reference_tensor


@dataclass(frozen=True)
class Sizes:
    image_size: int = 224
    patch_size: int = 4
    swin_width: int = 96
    swin_depths: tuple = (2, 2, 6, 2)
    swin_heads: tuple = (3, 6, 12, 24)
    window: int = 7
    vocab_size: int = 30522
    positions: int = 512
    text_width: int = 768
    text_layers: int = 12
    text_inner: int = 3072
    resnet_depths: tuple = (3, 4, 6, 3)
    resnet_width: int = 64
    dim: int = 512
    inner: int = 1024
    num_instruction_layers: int = 2
    num_cycles: int = 3
    config: dict = field(default_factory=lambda: {"head": 8, "filter_size": 40, "image_res": 224})


TINY = Sizes(
    image_size=56, swin_width=12, swin_depths=(2, 2), swin_heads=(1, 2), vocab_size=100, positions=47, text_width=32,
    text_layers=2, text_inner=64, resnet_depths=(1, 1, 1, 1), resnet_width=4, dim=16, inner=32,
    config={"head": 2, "filter_size": 30, "image_res": 56},
)  # fmt: skip


def weight_and_bias(name, *shape):
    return {f"{name}.weight": (shape, "float32"), f"{name}.bias": (shape[:1], "float32")}


def batch_norm(name, width):
    buffers = {f"{name}.running_mean": ((width,), "float32"), f"{name}.running_var": ((width,), "float32")}
    return weight_and_bias(name, width) | buffers | {f"{name}.num_batches_tracked": ((), "int64")}


def swin_layout(sizes):
    layout = weight_and_bias("patch_embed.proj", sizes.swin_width, 3, sizes.patch_size, sizes.patch_size)
    layout |= weight_and_bias("patch_embed.norm", sizes.swin_width)
    width, grid, area = sizes.swin_width, sizes.image_size // sizes.patch_size, sizes.window**2
    for stage, (depth, heads) in enumerate(zip(sizes.swin_depths, sizes.swin_heads, strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if block % 2 and grid > sizes.window:
                layout[f"{name}.attn_mask"] = (((grid // sizes.window) ** 2, area, area), "float32")
            layout |= weight_and_bias(f"{name}.norm1", width) | weight_and_bias(f"{name}.norm2", width)
            layout[f"{name}.attn.relative_position_bias_table"] = (((2 * sizes.window - 1) ** 2, heads), "float32")
            layout[f"{name}.attn.relative_position_index"] = ((area, area), "int64")
            layout |= weight_and_bias(f"{name}.attn.qkv", 3 * width, width)
            layout |= weight_and_bias(f"{name}.attn.proj", width, width)
            layout |= weight_and_bias(f"{name}.mlp.fc1", 4 * width, width)
            layout |= weight_and_bias(f"{name}.mlp.fc2", width, 4 * width)
        if stage < len(sizes.swin_depths) - 1:
            layout[f"layers.{stage}.downsample.reduction.weight"] = ((2 * width, 4 * width), "float32")
            layout |= weight_and_bias(f"layers.{stage}.downsample.norm", 4 * width)
            width, grid = 2 * width, grid // 2
    return layout | weight_and_bias("norm", width)


def bert_layout(sizes):
    width, tables = sizes.text_width, {"word": sizes.vocab_size, "position": sizes.positions, "token_type": 2}
    layout = {f"embeddings.{name}_embeddings.weight": ((rows, width), "float32") for name, rows in tables.items()}
    layout |= weight_and_bias("embeddings.LayerNorm", width)
    for layer in range(sizes.text_layers):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            layout |= weight_and_bias(f"{name}.attention.{part}", width, width)
        layout |= weight_and_bias(f"{name}.attention.output.LayerNorm", width)
        layout |= weight_and_bias(f"{name}.intermediate.dense", sizes.text_inner, width)
        layout |= weight_and_bias(f"{name}.output.dense", width, sizes.text_inner)
        layout |= weight_and_bias(f"{name}.output.LayerNorm", width)
    return layout


def resnet_layout(sizes):
    """In torchvision's names, without the classifier."""
    width = sizes.resnet_width
    layout = {"conv1.weight": ((width, 3, 7, 7), "float32")} | batch_norm("bn1", width)
    incoming = width
    for stage, depth in enumerate(sizes.resnet_depths, start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            shapes = ((width, incoming, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for number, shape in enumerate(shapes, start=1):
                layout[f"{name}.conv{number}.weight"] = (shape, "float32")
                layout |= batch_norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                layout[f"{name}.downsample.0.weight"] = ((4 * width, incoming, 1, 1), "float32")
                layout |= batch_norm(f"{name}.downsample.1", 4 * width)
            incoming = 4 * width
        width *= 2
    return layout


def block_layout(name, attention, sizes):
    layout = {}
    for part in "vkq":
        layout |= weight_and_bias(f"{name}.{attention}.linear_{part}", sizes.dim, sizes.dim)
    layout |= weight_and_bias(f"{name}.{attention}.linear_merge", sizes.dim, sizes.dim)
    layout |= weight_and_bias(f"{name}.ffn.0", sizes.inner, sizes.dim) | weight_and_bias(f"{name}.ffn.1", sizes.inner)
    layout |= weight_and_bias(f"{name}.ffn.3", sizes.dim, sizes.inner)
    return layout | weight_and_bias(f"{name}.norm1", sizes.dim) | weight_and_bias(f"{name}.norm2", sizes.dim)


def stack_layout(side, num_layers, sizes):
    layout = weight_and_bias(f"head_{side}", sizes.dim, sizes.dim)
    for layer in range(num_layers):
        layout |= weight_and_bias(f"mapping_{side}.{layer}", sizes.dim, sizes.dim)
        layout |= block_layout(f"{side}_sa.{layer}", "mhatt", sizes)
        layout |= block_layout(f"{side}_ca.{layer}", "mhatt_cross", sizes)
    return layout


def under(prefix, layout):
    return {f"{prefix}.{name}": value for name, value in layout.items()}


def official_layout(sizes):
    """{name: (shape, dtype)} of the whole state dict."""
    layout = {"temp": ((), "float32"), "temp2": ((), "float32")}
    layout |= under("vision_encoder", swin_layout(sizes)) | under("text_encoder", bert_layout(sizes))
    swin_out = sizes.swin_width * 2 ** (len(sizes.swin_depths) - 1)
    layout |= weight_and_bias("vision_proj", sizes.dim, swin_out)
    layout |= weight_and_bias("text_proj", sizes.dim, sizes.text_width)
    if sizes.num_instruction_layers:
        numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
        for name, value in resnet_layout(sizes).items():
            child, rest = name.split(".", 1)
            layout[f"conv_encoder.{numbers[child]}.{rest}"] = value
        layout |= weight_and_bias("conv_proj", sizes.dim, 4 * sizes.resnet_width * 2 ** (len(sizes.resnet_depths) - 1))
        layout |= stack_layout("img", sizes.num_instruction_layers, sizes)
    if sizes.num_cycles:
        layout |= stack_layout("txt", sizes.num_cycles, sizes)
    return layout


def draw(layout, salt="drawn"):
    """A state dict of that layout; the same numbers every time."""
    return {name: reference_tensor(name, shape, dtype, salt) for name, (shape, dtype) in layout.items()}


def drawn_checkpoint(sizes):
    """{'model', 'config'}, as the official code saves."""
    return {"model": draw(official_layout(sizes)), "config": dict(sizes.config)}


if __name__ == "__main__":
    torch.save(drawn_checkpoint(Sizes()), sys.argv[1])
