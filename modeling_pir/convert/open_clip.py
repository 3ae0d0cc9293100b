"""Convert checkpoints of open_clip (RemoteCLIP, GeoRSCLIP, SkyCLIP and others) to a CLIP folder for transformers.

    pir convert RemoteCLIP-ViT-B-32.pt remoteclip
    pir index FOLDER --index archive.lance --model remoteclip

A file holds a state dict, or one under "state_dict" as open_clip's training writes it, or is its safetensors. ViT-B/32,
B/16, L/14 and H/14 become a CLIPModel. RN50 becomes a VisionTextDualEncoder around timm's `resnet50_clip` (extra
`timm`), since transformers has no CLIP with a ResNet. Every tensor has to find its place.
"""

import gzip
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    TimmWrapperConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..hub.whole_folder import whole_folder
from .backbones import count_children, shape_of
from .state_dict import KeyTable, State, load_strictly, read_checkpoint, rename_key, state_dict_of

DEFAULT_TOKENIZER = "openai/clip-vit-base-patch32"  # CLIP's own; all these models share it
HEADS_OF_WIDTH = {768: 12, 1024: 16, 1280: 16}  # of the vision tower: B, L and H; its tensors do not show them
TEXT_HEAD_DIM = 64  # in every CLIP of OpenAI and open_clip
NUM_MERGES = 49152 - 256 - 2  # of CLIP's byte pairs; OpenAI's file lists more, which are not used
END_OF_TEXT = 49407
RESNET_BLOCKS = [3, 4, 6, 3]  # of RN50
RESNET_WIDTH = 2048  # of its pooled vector
RESNET_IMAGE_SIZE = 224  # pixels
SIZES_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")  # beside the weights in OpenAI's own files

# Beginnings of file names, and whether the authors load the file with QuickGELU. RS5M: om-ai-lab/RS5M,
# inference/inference.py loads B-32 and L-14 over OpenAI's weights and H-14 over LAION's. RemoteCLIP: its README loads
# ViT-B-32, ViT-L-14 and RN50 with open_clip's plain names, whose activation is GELU.
KNOWN_QUICK_GELU = {"RS5M_ViT-B-32": True, "RS5M_ViT-L-14": True, "RS5M_ViT-H-14": False, "RemoteCLIP-": False}

BLOCK_KEYS: KeyTable = {
    r"ln_(\d)\.": r"layer_norm\1.",
    r"attn\.out_proj\.": "self_attn.out_proj.",
    r"attn\.in_proj_": "self_attn.qkv.",  # split in three by `_split_attention`
    r"mlp\.c_fc\.": "mlp.fc1.",
    r"mlp\.c_proj\.": "mlp.fc2.",
}
TEXT_KEYS: KeyTable = {
    r"positional_embedding$": "embeddings.position_embedding.weight",
    r"token_embedding\.": "embeddings.token_embedding.",
    r"ln_final\.": "final_layer_norm.",
}
VISION_KEYS: KeyTable = {
    r"class_embedding$": "embeddings.class_embedding",
    r"positional_embedding$": "embeddings.position_embedding.weight",
    r"conv1\.": "embeddings.patch_embedding.",
    r"ln_pre\.": "pre_layrnorm.",
    r"ln_post\.": "post_layernorm.",
}


def is_open_clip(state: State) -> bool:
    """Whether tensors bear open_clip's names."""
    names = {name.removeprefix("module.") for name in state}
    return {"visual.conv1.weight", "token_embedding.weight", "text_projection"} <= names


def holds_open_clip(path: str | Path) -> bool:
    """Whether a file is one that [`convert_open_clip`] takes, as far as its tensors' names tell.

    Raises:
        ValueError: it cannot be read, or holds no tensors.
    """
    return str(path).endswith(".safetensors") or is_open_clip(state_dict_of(read_checkpoint(path), path))


def read_open_clip(path: str | Path) -> State:
    """The tensors of a checkpoint in float32, under open_clip's names.

    Args:
        path: `.pt` (a state dict, or one under "state_dict") or `.safetensors`; nothing in it is run.

    Returns:
        Name to tensor, without the "module." of distributed training.

    Raises:
        ValueError: the file cannot be read, or holds another kind of model.
    """
    if str(path).endswith(".safetensors"):
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as safetensors ({error}): download it again.") from error
    else:
        state = state_dict_of(read_checkpoint(path), path)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not is_open_clip(state):
        raise ValueError(
            f"{str(path)!r} holds no CLIP of open_clip, whose tensors are visual.*, transformer.* and token_embedding: "
            f"its first keys are {', '.join(list(state)[:5])}."
        )
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name not in SIZES_OF_OPENAI
    }


def choose_quick_gelu(path: str | Path, flag: bool | None) -> tuple[bool, str]:
    """Which activation a checkpoint was trained with, which no tensor shows.

    Args:
        path: of the file.
        flag: what the user says, or None.

    Returns:
        Whether it is QuickGELU, and the reason in words.
    """
    name = Path(path).name
    if flag is not None:
        return flag, "as you said"
    for beginning, is_quick in KNOWN_QUICK_GELU.items():
        if name.startswith(beginning):
            return is_quick, f"as the authors load {beginning}*"
    if re.search("quickgelu|openai", name, re.IGNORECASE):
        return True, "by the file's name"
    return False, "open_clip's default; say --quick-gelu if the model started from OpenAI's weights"


def _text_config(state: State, quick_gelu: bool) -> CLIPTextConfig:
    """Sizes of the text tower."""
    context_length, width = shape_of(state, "positional_embedding")
    return CLIPTextConfig(
        vocab_size=shape_of(state, "token_embedding.weight")[0],
        hidden_size=width,
        intermediate_size=shape_of(state, "transformer.resblocks.0.mlp.c_fc.weight")[0],
        num_hidden_layers=count_children(state, "transformer.resblocks."),
        num_attention_heads=width // TEXT_HEAD_DIM,
        max_position_embeddings=context_length,
        projection_dim=shape_of(state, "text_projection")[1],
        hidden_act="quick_gelu" if quick_gelu else "gelu",
        bos_token_id=END_OF_TEXT - 1,
        eos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
    )


def clip_config(state: State, quick_gelu: bool) -> CLIPConfig:
    """Sizes of a CLIP with a vision transformer.

    Raises:
        ValueError: a width of none of the known architectures, whose number of heads is not known.
    """
    width, _, patch_size, _ = shape_of(state, "visual.conv1.weight")
    if width not in HEADS_OF_WIDTH:
        raise ValueError(
            f"The vision tower is {width} wide, and its number of heads is not known: known are ViT-B (768), L (1024) "
            "and H (1280) of open_clip."
        )
    num_patches = shape_of(state, "visual.positional_embedding")[0] - 1
    text = _text_config(state, quick_gelu)
    vision = {
        "hidden_size": width,
        "intermediate_size": shape_of(state, "visual.transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": count_children(state, "visual.transformer.resblocks."),
        "num_attention_heads": HEADS_OF_WIDTH[width],
        "image_size": round(num_patches**0.5) * patch_size,
        "patch_size": patch_size,
        "projection_dim": text.projection_dim,
        "hidden_act": text.hidden_act,
    }
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=text.projection_dim)


def _tower_key(key: str, table: KeyTable) -> str | None:
    """The name in a tower of transformers; None if there is no place for it."""
    block = re.match(r"transformer\.resblocks\.(\d+)\.(.+)", key)
    if block is None:
        return rename_key(key, table)
    name = rename_key(block[2], BLOCK_KEYS)
    return name and f"encoder.layers.{block[1]}.{name}"


def _split_attention(name: str, tensor: torch.Tensor) -> Iterable[tuple[str, torch.Tensor]]:
    """Queries, keys and values under their own names; any other tensor as it is."""
    if ".qkv." not in name:
        return [(name, tensor)]
    return [(name.replace("qkv.", f"{part}_proj."), rows) for part, rows in zip("qkv", tensor.chunk(3), strict=True)]


def _text_name(key: str) -> str | None:
    """The name of a tensor of the text side and the scale."""
    if key in ("logit_scale", "text_projection"):
        return {"logit_scale": "logit_scale", "text_projection": "text_projection.weight"}[key]
    name = _tower_key(key, TEXT_KEYS)
    return name and f"text_model.{name}"


def _vision_name(key: str) -> str | None:
    """The name of a tensor of the vision transformer, given without "visual."."""
    if key == "proj":
        return "visual_projection.weight"
    name = _tower_key(key, VISION_KEYS)
    return name and f"vision_model.{name}"


def rename_clip(state: State) -> tuple[State, list[str]]:
    """Tensors of a CLIP under the names of transformers, and the keys that have no place there."""
    renamed, unknown = {}, []
    for key, tensor in state.items():
        name = _vision_name(key.removeprefix("visual.")) if key.startswith("visual.") else _text_name(key)
        if name is None:
            unknown.append(key)
        else:
            if name.endswith("_projection.weight"):  # open_clip multiplies from the left
                tensor = tensor.T.contiguous()
            renamed.update(_split_attention(name, tensor))
    return renamed, unknown


def build_clip(state: State, quick_gelu: bool, source: str) -> CLIPModel:
    """A CLIP filled with a checkpoint's tensors, all of it with all of them.

    Args:
        state: of open_clip.
        quick_gelu: the activation.
        source: for messages.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    model = CLIPModel(clip_config(state, quick_gelu))
    load_strictly(model, *rename_clip(state), source)
    return model.eval()


def _resnet_projection(state: State) -> State:
    """RN50's tensors with the projection behind its attention pool set apart, as transformers' wrapper needs it.

    open_clip computes W p + b from the pooled vector p; the projection of a VisionTextDualEncoder has no bias. The
    pool's weights sum to one, so that what is added to all its values is added to p: a shift x with W x = b comes out
    as b.
    """
    state = dict(state)
    weight, bias = state.pop("visual.attnpool.c_proj.weight"), state.pop("visual.attnpool.c_proj.bias")
    shift = torch.linalg.lstsq(weight.double(), bias.double()[:, None]).solution[:, 0]
    values = state["visual.attnpool.v_proj.bias"].double() + shift
    return state | {"visual.attnpool.v_proj.bias": values.float(), "visual_projection.weight": weight}


def build_resnet_clip(state: State, quick_gelu: bool, source: str) -> VisionTextDualEncoderModel:
    """RN50 as a dual encoder around timm's `resnet50_clip`.

    Args:
        state: of open_clip.
        quick_gelu: the text tower's activation; the ResNet's is ReLU.
        source: for messages.

    Raises:
        ValueError: another ResNet; or a tensor is missing, left over or of another shape.
    """
    from timm.models.byobnet import checkpoint_filter_fn

    blocks = [count_children(state, f"visual.layer{stage}.") for stage in range(1, 5)]
    if blocks != RESNET_BLOCKS:
        raise ValueError(f"{source} holds a ResNet with {blocks} blocks, but only RN50 ({RESNET_BLOCKS}) is converted.")
    shape_of(state, "visual.attnpool.c_proj.weight")
    state = _resnet_projection(state)
    text = _text_config(state, quick_gelu)
    vision = TimmWrapperConfig(architecture="resnet50_clip", num_labels=0, hidden_size=RESNET_WIDTH)
    config = VisionTextDualEncoderConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=text.projection_dim
    )
    model = VisionTextDualEncoderModel(config)
    timm_model = model.vision_model.timm_model
    visual = checkpoint_filter_fn({key: state.pop(key) for key in list(state) if key.startswith("visual.")}, timm_model)
    projection = state.pop("visual_projection.weight")
    renamed, unknown = rename_clip(state)
    renamed |= {f"vision_model.timm_model.{key}": tensor for key, tensor in visual.items()}
    load_strictly(model, renamed | {"visual_projection.weight": projection}, unknown, source)
    return model.eval()


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """CLIP's byte pairs from the file that OpenAI and open_clip ship (`bpe_simple_vocab_16e6.txt.gz`)."""
    lines = gzip.decompress(Path(path).read_bytes()).decode().split("\n")[1 : NUM_MERGES + 1]
    return [tuple(line.split()) for line in lines]


def clip_tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """CLIP's tokenizer from its byte pairs.

    It pads with the end token, unlike open_clip, which pads with 0: the text tower looks at no token behind the end,
    and 0 is the exclamation mark, which a tokenizer that pads with it cuts out of words.
    """
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def load_tokenizer(source: str | None) -> tuple[CLIPTokenizer, str]:
    """CLIP's tokenizer, and where it is from.

    Args:
        source: Hub id or folder; None takes the byte pairs that an installed open_clip brings, else
            `DEFAULT_TOKENIZER` of the Hub.

    Raises:
        ValueError: it cannot be loaded.
    """
    package = importlib.util.find_spec("open_clip")
    if source is None and package is not None:
        file = Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
        return clip_tokenizer(read_merges(file)), "the installed open_clip"
    source = source or DEFAULT_TOKENIZER
    try:
        return CLIPTokenizer.from_pretrained(source), source
    except (OSError, ValueError) as error:
        raise ValueError(
            f"CLIP's tokenizer cannot be loaded from {source!r} ({' '.join(str(error).split())}): pip install "
            "open_clip_torch, which brings it, or name a folder with --tokenizer."
        ) from error


def convert_open_clip(
    checkpoint: str | Path, out_dir: str | Path, quick_gelu: bool | None = None, tokenizer_name: str | None = None
) -> list[str]:
    """Convert a checkpoint; `out_dir` appears only when all of it went well.

    Args:
        checkpoint: see [`read_open_clip`].
        out_dir: folder to write; must not exist, or be empty.
        quick_gelu: the activation it was trained with; None decides by the file's name.
        tokenizer_name: see [`load_tokenizer`].

    Returns:
        Lines that say what was done and decided.

    Raises:
        ValueError: whatever is wrong with the file, the tokenizer or the folder.
    """
    with whole_folder(out_dir) as folder:
        state = read_open_clip(checkpoint)
        is_quick, reason = choose_quick_gelu(checkpoint, quick_gelu)
        tokenizer, origin = load_tokenizer(tokenizer_name)
        pieces = shape_of(state, "token_embedding.weight")[0]
        if len(tokenizer) != pieces:
            raise ValueError(f"The tokenizer of {origin} has {len(tokenizer)} pieces, but the checkpoint has {pieces}.")
        is_resnet = "visual.layer1.0.conv1.weight" in state
        model = (build_resnet_clip if is_resnet else build_clip)(state, is_quick, repr(str(checkpoint)))
        side = RESNET_IMAGE_SIZE if is_resnet else model.config.vision_config.image_size
        image_processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        processor_class = VisionTextDualEncoderProcessor if is_resnet else CLIPProcessor
        model.save_pretrained(folder)
        processor_class(image_processor, tokenizer).save_pretrained(folder)
    return [
        f"{len(state)} tensors -> {type(model).__name__}, {sum(weight.numel() for weight in model.parameters()):,} "
        f"weights, embeddings of {model.config.projection_dim}, images of {side} pixels",
        f"activation: {'QuickGELU' if is_quick else 'GELU'} ({reason})",
        f"tokenizer: {origin}",
    ]
