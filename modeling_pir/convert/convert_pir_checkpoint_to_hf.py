# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Convert an official PIR checkpoint (.pth) to a folder for PIRModel.from_pretrained and PIRProcessor.from_pretrained.

    pir convert checkpoint_best.pth OUT_DIR --verify

The folder computes the official embeddings: its configuration sets the official choices (padding takes part, norm after
the residual, identity targets, centres per process, live BatchNorm in training), its tokenizer writes no [SEP] and its
processor cleans captions by the official rules. docs/fidelity.md lists what those choices are and what we recommend.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import processors
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ViTImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.initialization import no_init_weights

from ..configuration_pir import PIRConfig
from ..hub.whole_folder import whole_folder
from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor
from .backbones import RESNET_KEYS, SWIN_KEYS, count_children, resnet_config, shape_of, swin_config
from .official_forward import Numbers, image_embeds, text_embeds
from .state_dict import KeyTable, State, load_strictly, read_checkpoint, rename_key, rename_tensors, state_dict_of

BLOCK_KEYS: KeyTable = {
    r"mhatt(_cross)?\.linear_q\.": "attention.q_proj.",
    r"mhatt(_cross)?\.linear_k\.": "attention.k_proj.",
    r"mhatt(_cross)?\.linear_v\.": "attention.v_proj.",
    r"mhatt(_cross)?\.linear_merge\.": "attention.out_proj.",
    r"ffn\.0\.": "feed_forward.fc1.",
    r"ffn\.1\.": "feed_forward.norm.",
    r"ffn\.3\.": "feed_forward.fc2.",
    r"norm1\.": "attention_norm.",
    r"norm2\.": "feed_forward_norm.",
}
WHOLE: KeyTable = {"": ""}  # what follows stays as it is
# The official part, ours, and the table for what follows. ResNet is first brought to torchvision's names.
PARTS: tuple[tuple[str, str, KeyTable], ...] = (
    (r"temp$", "logit_scale", WHOLE),
    (r"temp2$", "affiliation_logit_scale", WHOLE),
    (r"vision_encoder\.", "vision_model.", SWIN_KEYS),
    (r"text_encoder\.", "text_model.", WHOLE),
    (r"conv_encoder\.", "instruction_model.", RESNET_KEYS),
    (r"vision_proj\.", "visual_projection.", WHOLE),
    (r"text_proj\.", "text_projection.", WHOLE),
    (r"conv_proj\.", "instruction_projection.", WHOLE),
    (r"img_sa\.(\d+)\.", r"vir.layers.\1.self_attention_block.", BLOCK_KEYS),
    (r"img_ca\.(\d+)\.", r"vir.layers.\1.cross_attention_block.", BLOCK_KEYS),
    (r"mapping_img\.(\d+)\.", r"vir.layers.\1.query_projection.", WHOLE),
    (r"head_img\.", "vir.head.", WHOLE),
    (r"txt_sa\.(\d+)\.", r"lca.layers.\1.self_attention_block.", BLOCK_KEYS),
    (r"txt_ca\.(\d+)\.", r"lca.layers.\1.cross_attention_block.", BLOCK_KEYS),
    (r"mapping_txt\.(\d+)\.", r"lca.layers.\1.query_projection.", WHOLE),
    (r"head_txt\.", "lca.head.", WHOLE),
)
SEQUENTIAL_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# The official choices that are not the defaults of PIRConfig.
OFFICIAL_CHOICES = {
    "norm_style": "post",
    "mask_padding": False,
    "freeze_instruction_batch_norm": False,
    "affiliation_targets": "identity",
    "affiliation_centers": "local",
}
DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"
BERT_HEAD_WIDTH = 64  # of every published BERT
EMBEDS_TOLERANCE = 1e-5  # absolute, float32
BELIEF_TOLERANCE = 1e-4  # a softmax of unscaled products, which are large: their rounding is seen


@dataclass(frozen=True)
class Flags:
    """What the command line says about numbers that the tensors do not show; None where it says nothing."""

    heads: int | None = None
    text_heads: int | None = None
    filter_size: int | None = None


def torchvision_name(name: str) -> str:
    """A key of the official ResNet, a Sequential of torchvision's children, in torchvision's name."""
    number, _, rest = name.partition(".")
    return f"{SEQUENTIAL_RESNET.get(number, number)}.{rest}"


def official_to_ours(key: str) -> str | None:
    """Our name of an official tensor; None where it has none."""
    for pattern, part, table in PARTS:
        found = re.match(pattern, key)
        if found:
            rest = key[found.end() :]
            rest = rename_key(torchvision_name(rest) if table is RESNET_KEYS else rest, table)
            return None if rest is None else found.expand(part) + rest
    return None


def part_of(state: State, prefix: str) -> State:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def chosen(name: str, flag: int | None, written: object, flag_name: str) -> int:
    """A number from the command line or from the checkpoint's own configuration.

    Raises:
        ValueError: they contradict each other, or neither says it.
    """
    if flag is not None and written is not None and flag != written:
        raise ValueError(f"{flag_name} is {flag}, but the checkpoint's own configuration says {written}: leave it out.")
    value = written if flag is None else flag
    if value is None:
        raise ValueError(f"The checkpoint does not say its {name}: give it with {flag_name} (official: 8 and 40).")
    return value


def text_config(state: State, text_heads: int | None) -> BertConfig:
    """Sizes of the official BERT from its tensors; heads of 64 channels, as in every published BERT, unless given."""
    vocab_size, hidden_size = shape_of(state, "embeddings.word_embeddings.weight")
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=count_children(state, "encoder.layer."),
        num_attention_heads=text_heads or max(1, hidden_size // BERT_HEAD_WIDTH),
        intermediate_size=shape_of(state, "encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=shape_of(state, "embeddings.position_embeddings.weight")[0],
        type_vocab_size=shape_of(state, "embeddings.token_type_embeddings.weight")[0],
    )


def infer_config(state: State, written: dict, flags: Flags) -> PIRConfig:
    """Our configuration of an official checkpoint.

    Args:
        state: the official tensors.
        written: the configuration saved beside them, {} for a bare state dict.
        flags: of the command line.

    Returns:
        Sizes from the tensors, the rest from `written` or `flags`, training numbers from `written` or the official
        defaults, and the official choices.

    Raises:
        ValueError: it is not a PIR checkpoint, or a number is missing or contradicts another.
    """
    if not {"vision_proj.weight", "text_proj.weight", "temp"} <= state.keys():
        keys = ", ".join(list(state)[:10])
        raise ValueError(
            f"This is not an official PIR checkpoint (no vision_proj, text_proj or temp); its keys are {keys}."
        )
    num_layers = max(count_children(state, f"{part}.") for part in ("img_sa", "img_ca", "mapping_img"))
    num_cycles = max(count_children(state, f"{part}.") for part in ("txt_sa", "txt_ca", "mapping_txt"))
    fields = OFFICIAL_CHOICES | {
        "vision_config": swin_config(part_of(state, "vision_encoder."), written.get("image_res", 224)),
        "text_config": text_config(part_of(state, "text_encoder."), flags.text_heads),
        "projection_dim": shape_of(state, "vision_proj.weight")[0],
        "num_instruction_layers": num_layers,
        "num_cycles": num_cycles,
    }
    if num_layers or num_cycles:
        fields["num_attention_heads"] = chosen("number of heads", flags.heads, written.get("head"), "--heads")
        side = "img_sa" if num_layers else "txt_sa"
        fields["feedforward_dim"] = shape_of(state, f"{side}.0.ffn.0.weight")[0]
    if num_layers:
        fields["filter_size"] = chosen("filter size", flags.filter_size, written.get("filter_size"), "--filter-size")
        resnet = {torchvision_name(key): value for key, value in part_of(state, "conv_encoder.").items()}
        fields["instruction_config"] = resnet_config(resnet)
    try:
        return PIRConfig(**fields, **training_fields(written))
    except StrictDataclassError as error:  # wraps our sentence in lines about validators
        raise ValueError(str(error.__cause__ or error)) from error


def training_fields(written: dict) -> dict:
    """What only training reads, from the configuration saved in a checkpoint or as the official ones have it."""
    return {
        "dropout": written.get("dropout_r", 0.2),
        "freeze_instruction_encoder": not written.get("finetune_conv", False),
        "contrastive_objective": "triplet" if written.get("use_triplet_loss") else "infonce",
        "logit_scale_init_value": -math.log(written.get("temp1", 0.07)),
        "affiliation_weight": written.get("center_factor", 1) if written.get("use_affil_loss", True) else 0,
    }


def convert_weights(state: State, config: PIRConfig, source: str) -> PIRModel:
    """Our model with the official weights.

    Args:
        state: the official tensors.
        config: from [`infer_config`].
        source: for messages.

    Returns:
        The model in evaluation mode.

    Raises:
        KeyMismatchError: a key is missing, left over or of another shape.
        ValueError: a temperature that is not above 0.
    """
    renamed, unknown = rename_tensors(state, official_to_ours)
    if config.affiliation_weight == 0:
        renamed.pop("affiliation_logit_scale", None)  # the official model has it even where its loss is off
    for name in ("logit_scale", "affiliation_logit_scale"):
        if name in renamed:
            if not renamed[name] > 0:
                raise ValueError(f"The temperature behind {name} is {renamed[name].item()}, but it has to be above 0.")
            renamed[name] = -renamed[name].log()
    with no_init_weights():
        model = PIRModel(config)
    load_strictly(model, renamed, unknown, source)
    model.tie_weights()  # the last hook of the initialisation that was skipped; it freezes the prior
    return model.eval()


def tokenizer_without_sep(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of an uncased WordPiece tokenizer that writes [CLS] and the pieces without [SEP], as the official code."""
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    specials = {name: getattr(tokenizer, name) for name in names}
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        **specials,
    )
    cls_token = specials["cls_token"]
    copy.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls_token}:0 $A:0",
        pair=f"{cls_token}:0 $A:0 $B:1",
        special_tokens=[(cls_token, tokenizer.cls_token_id)],
    )
    return copy


def official_processor(config: PIRConfig, tokenizer_name: str) -> PIRProcessor:
    """The official preprocessing: bicubic square, CLIP's mean and standard deviation, cleaned captions, no [SEP].

    Args:
        config: of the converted model.
        tokenizer_name: Hub id or folder.

    Raises:
        ValueError: the tokenizer cannot be had, or its vocabulary is not the checkpoint's.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The tokenizer {tokenizer_name!r} is neither a folder here nor available on the Hub: give the folder "
            f"of a copy of {DEFAULT_TOKENIZER}, which the official code uses, with --tokenizer."
        ) from error
    if len(tokenizer) != config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer {tokenizer_name!r} has {len(tokenizer)} pieces, but the checkpoint embeds "
            f"{config.text_config.vocab_size}: give the one it was trained with, with --tokenizer."
        )
    size = config.vision_config.image_size
    image_processor = ViTImageProcessor(
        size={"height": size, "width": size},
        resample=PILImageResampling.BICUBIC,
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
        do_convert_rgb=True,
    )
    return PIRProcessor(image_processor, tokenizer_without_sep(tokenizer), caption_cleaning=True)


@torch.no_grad()
def verify(folder: Path, state: State) -> list[str]:
    """Compare the saved folder with the official computation on the raw tensors, on drawn inputs.

    Numbers that the tensors do not show (heads, tokens kept) are taken as given on both sides.

    Args:
        folder: what the conversion wrote; read back with `from_pretrained`.
        state: the official tensors.

    Returns:
        Lines that say what was checked.

    Raises:
        ValueError: an embedding differs by more than 1e-5, a belief score by more than 1e-4, or other tokens are kept.
    """
    model = PIRModel.from_pretrained(folder).eval()
    config, text = model.config, model.config.text_config
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    pixel_values = torch.randn(2, 3, size, size, generator=generator)
    length = min(24, text.max_position_embeddings)
    input_ids = torch.randint(1, text.vocab_size, (4, length), generator=generator)
    input_ids[1:, length // 2 :] = 0  # padding takes part
    numbers = Numbers(config.num_attention_heads, text.num_attention_heads, config.filter_size)
    expected_images, expected_belief, expected_kept = image_embeds(state, pixel_values, numbers)
    expected_texts = text_embeds(state, input_ids, numbers)
    outputs = model(input_ids=input_ids, pixel_values=pixel_values)
    lines = [
        _compare("image_embeds", outputs.image_embeds, expected_images, EMBEDS_TOLERANCE),
        _compare("text_embeds", outputs.text_embeds, expected_texts, EMBEDS_TOLERANCE),
    ]
    if expected_belief is not None:
        lines.append(_compare("belief_scores", outputs.belief_scores, expected_belief, BELIEF_TOLERANCE))
        if not torch.equal(outputs.filtered_indices, expected_kept):
            raise ValueError("VIR keeps other tokens than the official computation.")
        lines.append(f"verified: the {expected_kept.shape[1]} tokens kept of {expected_belief.shape[1]} are the same")
    lines.append(
        f"taken as given on both sides, because tensors do not show them, so that a wrong one is not noticed: "
        f"{numbers.heads} heads (--heads), {numbers.text_heads} heads of BERT (--text-heads), "
        f"{numbers.filter_size} tokens kept (--filter-size)"
    )
    return lines


def _compare(name: str, ours: torch.Tensor, expected: torch.Tensor, tolerance: float) -> str:
    """A line that says how close two tensors are; raises where that is not close enough."""
    difference = (ours - expected).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(f"{name} differ by {difference:.1e} from the official computation, more than {tolerance:.0e}.")
    return f"verified: {name} {tuple(ours.shape)} within {difference:.1e} of the official computation"


def convert(
    checkpoint_path: str | Path,
    out_dir: str | Path,
    tokenizer_name: str = DEFAULT_TOKENIZER,
    flags: Flags | None = None,
    check: bool = False,
) -> list[str]:
    """Convert a checkpoint; `out_dir` appears only when all of it went well.

    Args:
        checkpoint_path: `{'model', 'config'}` or a bare state dict.
        out_dir: folder to write.
        tokenizer_name: Hub id or folder.
        flags: numbers that the checkpoint does not show.
        check: also compare the result with the official computation.

    Returns:
        Lines that say what was done.

    Raises:
        ValueError: whatever is wrong with the file, the numbers, the tokenizer or the folder.
    """
    with whole_folder(out_dir) as folder:
        checkpoint = read_checkpoint(checkpoint_path)
        state = state_dict_of(checkpoint, checkpoint_path)
        written = checkpoint.get("config", {}) if state is not checkpoint else {}
        config = infer_config(state, written, flags or Flags())
        processor = official_processor(config, tokenizer_name)
        model = convert_weights(state, config, repr(str(checkpoint_path)))
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        lines = [
            f"{len(state)} official tensors -> {sum(weight.numel() for weight in model.parameters()):,} weights",
            f"width {config.projection_dim}, VIR layers {config.num_instruction_layers}, cycles {config.num_cycles}",
            f"not shown by the tensors: heads {config.num_attention_heads}, tokens kept {config.filter_size}, "
            f"heads of BERT {config.text_config.num_attention_heads}",
        ]
        del model
        if check:
            lines += verify(folder, state)
    return lines
