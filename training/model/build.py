"""Model and processor of a run, from its configuration."""

from typing import Any

from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.convert.state_dict import load_strictly
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.modeling_pir import load_tower
from modeling_pir.processing_pir import build_image_processor
from modeling_pir.towers_pir import build_tower as random_tower
from training.config import TrainConfig
from training.model.starts import check_processor
from training.model.tokenizer import build_tokenizer


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
    return random_tower(getattr(fields, f"{name}_config"), "vision"), image_size


def tower_normalisation(tower: PreTrainedModel, source: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that a pretrained vision tower wants its images normalised by.

    A timm tower's configuration says it. The others get CLIP's, which the official code gives every tower.

    Args:
        tower: the vision tower.
        source: where it came from, for the message.

    Raises:
        ValueError: a timm tower whose configuration does not say.
    """
    if not hasattr(tower, "timm_model"):
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    facts = getattr(tower.config, "pretrained_cfg", None) or {}
    mean, std = facts.get("mean"), facts.get("std")
    if not mean or not std:
        raise ValueError(
            f"{source!r} does not say how its images were normalised: add `mean` and `std`, three numbers each, to "
            "pretrained_cfg in its config.json."
        )
    return list(mean), list(std)


def build_model_and_processor(config: TrainConfig, train_split: Dataset) -> tuple[PIRModel, PIRProcessor]:
    """Build or load what the run trains.

    Args:
        config: the run; without `init_from` and `backbones` the weights are random.
        train_split: rows with `captions`, for a tokenizer that is to be trained.

    Returns:
        The model and its processor.

    Raises:
        ValueError: a tokenizer with more words than the text tower has embeddings, a model without processor, or a
            vision tower of other sizes.
    """
    if config.init_from is not None:
        model, processor = load_pretrained(config.init_from, **config.model)
        check_processor(config, processor)
        return model, processor
    tokenizer = build_tokenizer(config, train_split)
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
    normalisation = ()
    if config.backbones is not None:
        normalisation = tower_normalisation(model.vision_model, config.backbones["vision"])
    image_size = config.image_size or image_side(model.config.vision_config)
    image_processor = build_image_processor(image_size, *normalisation)
    return model, PIRProcessor(image_processor, tokenizer, caption_cleaning=config.caption_cleaning)
