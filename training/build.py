"""Model and processor of a run, from its configuration."""

import copy
import warnings
from typing import Any

from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.convert_backbones import load_strictly
from modeling_pir.modeling_pir import load_tower
from modeling_pir.processing_pir import clean_caption
from training.config import TrainConfig

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(captions: list[str], vocab_size: int, max_length: int) -> BertTokenizer:
    """Learn an uncased WordPiece vocabulary.

    Args:
        captions: the training captions.
        vocab_size: pieces, at most.
        max_length: tokens a text is cut to.

    Returns:
        A BertTokenizer.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    characters = sorted({character for caption in captions for character in caption.lower() if not character.isspace()})
    # The trainer numbers characters in the order of a hash table and breaks ties between equally frequent pieces by
    # those numbers, so two trainings differ. Named beforehand, they have fixed numbers.
    first_pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first_pieces, show_progress=False)
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=max_length)


def build_image_processor(image_size: int) -> ViTImageProcessor:
    """The official image settings: resized to a square, bicubic, CLIP's mean and standard deviation."""
    return ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=PILImageResampling.BICUBIC,
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
        do_convert_rgb=True,
    )


def pir_config(fields: dict[str, Any]) -> PIRConfig:
    """Build the configuration of a run's model.

    Raises:
        ValueError: a field of the wrong type, as transformers' own check finds it.
    """
    try:
        return PIRConfig(**fields)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The configuration's model does not fit PIRConfig: {reason}") from error


def image_side(vision_config: PreTrainedConfig) -> int:
    """Side of the images that a vision tower is made for, pixels; 224 where its configuration does not say."""
    size = getattr(vision_config, "image_size", 224)
    return size if isinstance(size, int) else size[0]


def build_tower(config: TrainConfig, name: str) -> tuple[PreTrainedModel, int]:
    """One tower of a run, pretrained or random.

    Args:
        config: the run; its tower is that of `backbones`, or else of `model`.
        name: "instruction" or "vision".

    Returns:
        The tower, and the side of the images that it is shown.

    Raises:
        ValueError: the run has no such tower.
    """
    if config.backbones is not None:
        if name not in config.backbones:
            raise ValueError(f"backbones names no {name} tower: add it.")
        sizes = AutoConfig.from_pretrained(config.backbones["vision"])
        sizes = getattr(sizes, "vision_config", sizes)
        return load_tower(config.backbones[name], "vision"), config.image_size or image_side(sizes)
    fields = pir_config(config.model)
    image_size = config.image_size or image_side(fields.vision_config)
    return AutoModel.from_config(getattr(fields, f"{name}_config")), image_size


def build_model_and_processor(config: TrainConfig, train_split: Dataset) -> tuple[PIRModel, PIRProcessor]:
    """Build or load what the run trains.

    Args:
        config: the run; `init_from` wins over `backbones`, and without both the weights are random.
        train_split: rows with `captions`, for a tokenizer that is to be trained.

    Returns:
        The model and its processor.

    Raises:
        ValueError: a tokenizer with more words than the text tower has embeddings, a model without processor, or a
            vision tower of other sizes.
    """
    if config.init_from is not None:
        processor = PIRProcessor.from_pretrained(config.init_from)
        return PIRModel.from_pretrained(config.init_from, **config.model), processor
    tokenizer = _build_tokenizer(config, train_split)
    if config.backbones is not None:
        model = PIRModel.from_backbones(**config.backbones, **config.model)
    else:
        fields = dict(config.model)
        text_config = dict(fields.get("text_config") or {})
        if config.tokenizer == "train":
            text_config["vocab_size"] = len(tokenizer)
            text_config.setdefault("pad_token_id", tokenizer.pad_token_id)
        model = PIRModel(pir_config(fields | {"text_config": text_config}))
    if config.init_vision is not None:
        tower = load_tower(config.init_vision, "vision")
        load_strictly(model.vision_model, tower.state_dict(), [], repr(config.init_vision))
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer knows {len(tokenizer)} pieces, but the text tower has embeddings for "
            f"{model.config.text_config.vocab_size}: use the tokenizer of the text tower's checkpoint."
        )
    image_processor = build_image_processor(config.image_size or image_side(model.config.vision_config))
    return model, PIRProcessor(image_processor, tokenizer, caption_cleaning=config.caption_cleaning)


def _build_tokenizer(config: TrainConfig, train_split: Dataset) -> PreTrainedTokenizerBase:
    if config.tokenizer != "train":
        return AutoTokenizer.from_pretrained(config.tokenizer)
    if config.backbones is not None:
        warnings.warn("A new vocabulary has no use for a pretrained text tower's word embeddings.", stacklevel=2)
    captions = [caption for captions in train_split["captions"] for caption in captions]
    if config.caption_cleaning:
        captions = [clean_caption(caption) for caption in captions]
    max_length = PIRProcessor.text_kwargs["max_length"]
    return train_tokenizer(captions, config.vocab_size, max_length)


def freeze_modules(model: PIRModel, names: list[str]) -> None:
    """Stop the gradient of parts of a model.

    Args:
        model: changed in place.
        names: of modules or parameters, such as "vision_model" or "text_model.embeddings".

    Raises:
        ValueError: the model has no such part.
    """
    for name in names:
        parts = [p for own, p in model.named_parameters() if own == name or own.startswith(f"{name}.")]
        if not parts:
            children = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"freeze names {name!r}, but the model has no such part: it has {children} and theirs.")
        for parameter in parts:
            parameter.requires_grad_(False)


def add_lora(model: PIRModel, rank: int) -> None:
    """Freeze both towers but for LoRA adapters in their attention; VIR, LCA and the projections go on training.

    Args:
        model: changed in place.
        rank: of the adapters.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora_rank needs the package peft: pip install peft.") from error
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    # Query and value of Swin, BERT and CLIP towers, by the names that transformers gives them.
    targets = r"(vision_model|text_model)\..*\.(q_proj|v_proj|query|value)"
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if name in trainable and not name.startswith(("vision_model.", "text_model.")):
            parameter.requires_grad_(True)


def without_adapters(model: PIRModel) -> PIRModel:
    """The model as it is saved: a copy with its adapters merged into the weights; itself where it has none."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if hasattr(module, "get_base_layer"):
            module.merge()
            merged.set_submodule(name, module.get_base_layer())
    return merged
