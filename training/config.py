"""TrainConfig: all settings of a run except the architecture, from a YAML file and overrides."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING

from modeling_pir import PIRConfig


@dataclass(kw_only=True)
class DataFields:
    """The data of a run, and how it is loaded and augmented.

    Attributes:
        data: "sample" (synthetic), a known name (rsicd, rsitmd, ucm), a Hub id, a folder of Parquet or tar files, or a
            folder or table of captions as in docs/finetune.md.
        split_list: "rsicd", "rsitmd" or "ucm": assign the images to the splits of published results.
        data_revision: revision of a Hub data set.
        skip_bad_images: leave out unreadable images and list them, instead of stopping.
        streaming: read the training shards (Parquet or tar, in a folder or on the Hub) as they are needed, for data
            larger than the disk; validation and test are held in memory. See docs/scale.md.
        shuffle_buffer: rows that each loader process of a streamed run holds, undecoded, to shuffle them.
        steps_per_epoch: steps per epoch of a streamed run; 0 for one pass, if the source gives its number of rows.
        captions_per_image: 0: an item is one caption with its image, as in the official code. n: an item is an image
            with n of its captions, so that the image is encoded once.
        crop_scale: smallest share of the area that a random crop keeps, above 0; 1 for no crop.
        rand_augment: two random operations that leave colours and objects recognisable.
        flips_and_turns: flips and quarter turns, unless a caption of the item names a direction.
        cache_images: keep the decoded training images in memory.
        images_on_device: keep them decoded on the device, at `image_size`, and augment whole batches there, for a GPU
            that waits for the loader. `rand_augment` then changes brightness and contrast only.
        num_workers: loader processes; 0 loads in the training process.
        feature_cache: folder for the outputs of frozen towers, computed once and shared by all runs that name the
            folder. Requires that `freeze` names both towers whole and that images are not augmented. Stored in the
            run's precision, about 100 KB (bf16) per image of 36 patches of 1,280 channels and 10 KB per caption.
    """

    data: str = "sample"
    split_list: str | None = None
    data_revision: str | None = None
    skip_bad_images: bool = False
    streaming: bool = False
    shuffle_buffer: int = 2000
    steps_per_epoch: int = 0
    captions_per_image: int = 0
    crop_scale: float = 0.5
    rand_augment: bool = True
    flips_and_turns: bool = True
    cache_images: bool = False
    images_on_device: bool = False
    num_workers: int = 0
    feature_cache: str | None = None


@dataclass(kw_only=True)
class ModelFields:
    """The model of a run: its start weights, architecture, tokenizer and image size.

    Attributes:
        init_from: Hub id or folder of a PIR model to start from, with its processor; `model` can change fields of its
            configuration, but not its towers or tokenizer.
        backbones: Hub ids or folders of pretrained towers: `vision`, `text` and `instruction`.
        init_vision: a saved tower (of `training.pretrain_tower --tower vision`, for example) that the vision tower
            starts from, if `backbones` names none.
        init_instruction: an official ResNet .pth or a saved tower that the instruction encoder starts from.
        model: fields of PIRConfig.
        image_size: side of the images in pixels; 0 for the vision tower's own (224 if its configuration does not say).
        tokenizer: "train" learns a WordPiece vocabulary from the training captions; else a Hub id or folder.
        vocab_size: maximum size of a learned vocabulary.
        caption_cleaning: clean captions by the official rules, in training and later in the processor.
        freeze: modules of the model that get no gradient, such as ["vision_model", "text_model.embeddings"].
        freeze_batch_norm: the vision tower's BatchNorm keeps its statistics during training; its weights still learn.
            Better for a pretrained tower that is fine-tuned on few images of another kind.
        lora_rank: rank of LoRA adapters in the attention of both towers, which are then frozen; 0 for none. The saved
            model has them merged in.
    """

    init_from: str | None = None
    backbones: dict[str, str] | None = None
    init_vision: str | None = None
    init_instruction: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    image_size: int = 0
    tokenizer: str = "train"
    vocab_size: int = 4000
    caption_cleaning: bool = True
    freeze: list[str] = field(default_factory=list)
    freeze_batch_norm: bool = False
    lora_rank: int = 0


@dataclass(kw_only=True)
class OptimisationFields:
    """How it is trained.

    Attributes:
        epochs: passes over the training items.
        batch_size: items per step over all processes, the contrastive batch.
        chunk_size: items whose activations a process holds at once, for batches larger than memory; 0 for the whole
            batch. The gradient is the same, at the price of a second forward pass.
        learning_rate: peak learning rate of AdamW.
        module_learning_rates: peak learning rates of modules that need another one, such as {text_model: 1.0e-4}.
        layer_decay: factor on the learning rate from each block of a tower to the one below it; 1 for one rate.
        weight_decay: of the weights that decay (not norms, biases, temperatures).
        adam_betas: decay rates of AdamW's moments.
        raw_temperatures: train the temperatures directly, with weight decay, as in the official code; otherwise their
            log scales, without decay.
        warmup_ratio: share of the steps over which the learning rate rises linearly.
        schedule: "linear" or "cosine" decay to 0 after the warm-up.
        max_grad_norm: largest gradient norm, to which gradients are clipped; 0 turns clipping off.
        instruction_epochs: epochs of scene classification on the training split before the joint training; 0 leaves
            the instruction encoder as it is, random if nothing was loaded into it.
        instruction_learning_rate: its peak learning rate (AdamW, one cycle).
        seed: seed of weights, order, augmentation and dropout.
    """

    epochs: int = 50
    batch_size: int = 128
    chunk_size: int = 0
    learning_rate: float = 6e-5
    module_learning_rates: dict[str, float] = field(default_factory=dict)
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.98)
    raw_temperatures: bool = False
    warmup_ratio: float = 0.1
    schedule: Literal["linear", "cosine"] = "linear"
    max_grad_norm: float = 1.0
    instruction_epochs: int = 0
    instruction_learning_rate: float = 2e-3
    seed: int = 42


@dataclass(kw_only=True)
class RunFields:
    """The output of a run: evaluation, checkpoints and logs.

    Attributes:
        output_dir: the run folder.
        evaluate_every: epochs between evaluations on validation.
        evaluation_batch_size: images or texts encoded at once.
        save_dtype: "float32", or "bfloat16" or "float16" to halve the size of best/ and last/; the test result is that
            of the stored weights.
        checkpoint_every: steps between checkpoints within an epoch; 0 for one at the end of each epoch only.
        log_with: trackers of accelerate, such as "tensorboard" or "wandb".
        log_every: steps between lines in metrics.jsonl.
    """

    output_dir: str = "runs/run"
    evaluate_every: int = 1
    evaluation_batch_size: int = 64
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint_every: int = 0
    log_with: str | None = None
    log_every: int = 10


@strict
@dataclass(kw_only=True)
class TrainConfig(DataFields, ModelFields, OptimisationFields, RunFields):
    """One reproducible run, in four groups of fields that a YAML file lists together.

    Precision, device and the number of processes are set with `accelerate launch --mixed_precision bf16 ...`;
    the architecture is a PIRConfig and travels with the weights.
    """

    def __post_init__(self) -> None:
        """Check ranges; the types are checked by `strict`.

        Raises:
            ValueError: with the field, its value and what is allowed.
        """
        sizes = ("epochs", "batch_size", "evaluate_every", "evaluation_batch_size", "log_every", "shuffle_buffer")
        for name in (*sizes, "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be above 0.")
        counts = (
            "captions_per_image",
            "image_size",
            "instruction_epochs",
            "num_workers",
            "chunk_size",
            "checkpoint_every",
            "lora_rank",
            "steps_per_epoch",
        )
        for name in (*counts, "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it has to be 0 or more.")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(
                f"warmup_ratio is {self.warmup_ratio}, but it is a share of the steps: at least 0, below 1."
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}, but it is a factor: above 0, at most 1.")
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}, but it is a share of the area: above 0, at most 1.")
        if self.backbones is not None and not {"vision", "text"} <= set(self.backbones) <= {
            "vision",
            "text",
            "instruction",
        }:
            raise ValueError(
                f"backbones names {sorted(self.backbones)}: give vision and text, and instruction for VIR."
            )
        for name, rate in self.module_learning_rates.items():
            if rate <= 0:
                raise ValueError(f"module_learning_rates gives {name!r} {rate}: give a rate above 0, or freeze it.")
        if self.images_on_device and not self.captions_per_image:
            raise ValueError(
                "images_on_device is on, but captions_per_image is 0: set how many captions of its image an item shows."
            )
        if self.feature_cache is not None:
            _check_feature_cache(self)
        if self.streaming:
            _check_streaming(self)
        elif self.steps_per_epoch:
            raise ValueError(
                f"steps_per_epoch is {self.steps_per_epoch}, but only a streamed run (streaming=true) counts in steps."
            )


def _check_streaming(config: TrainConfig) -> None:
    """One sentence where a field needs all training rows at hand, which a streamed run never has."""
    reasons = {
        "captions_per_image is 0: set how many captions of its image an item shows": not config.captions_per_image,
        "tokenizer is 'train': give one that is trained already": config.tokenizer == "train" and not config.init_from,
        "instruction_epochs is not 0: train the prior with training.pretrain_tower": config.instruction_epochs,
        "cache_images is on: turn it off": config.cache_images,
        "images_on_device is on: turn it off": config.images_on_device,
        "split_list is set: give shards that are named after their split": config.split_list,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(f"A streamed run does not hold all its rows in memory, but {reason}.")


def _check_feature_cache(config: TrainConfig) -> None:
    """One sentence where an image or a caption would not give the same features in every epoch and run."""
    reasons = {
        "freeze does not name vision_model and text_model": not {"vision_model", "text_model"} <= set(config.freeze),
        f"crop_scale is {config.crop_scale}: set it to 1.0": config.crop_scale < 1,
        "rand_augment is on: turn it off": config.rand_augment,
        "flips_and_turns is on: turn it off": config.flips_and_turns,
        "images_on_device is on: turn it off": config.images_on_device,
        "streaming is on: turn it off": config.streaming,
        "lora_rank is not 0: set it to 0": config.lora_rank,
        "instruction_epochs is not 0: train the prior with training.pretrain_tower": config.instruction_epochs,
        "num_workers is not 0: there is nothing to load, set it to 0": config.num_workers,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(f"feature_cache stores the outputs of frozen towers for unchanged images, but {reason}.")


def build_config(values: dict[str, Any]) -> TrainConfig:
    """The configuration of some fields, such as those of a YAML file.

    Args:
        values: field to value; a whole number is taken where a field is a float, a list where it is a tuple.

    Returns:
        The checked configuration.

    Raises:
        ValueError: a value of the wrong type or out of range, with the field.
    """
    _check_names(values, TrainConfig, "")
    types = {spec.name: spec.type for spec in dataclasses.fields(TrainConfig)}
    values = dict(values)
    for name, value in values.items():
        if types[name] is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif get_origin(types[name]) is tuple and isinstance(value, list):
            values[name] = tuple(value)
    try:
        return TrainConfig(**values)
    except StrictDataclassFieldValidationError as error:
        hint = "; YAML reads 1e-4 as text: write 1.0e-4" if "expected float, got str" in str(error) else ""
        raise ValueError(f"The configuration is wrong: {error.__cause__ or error}{hint}.") from error


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: the file.
        overrides: fields that replace the file's; a dotted name (`model.num_cycles`) reaches into a mapping.

    Returns:
        The checked configuration.

    Raises:
        ValueError: the file is missing or no mapping, or a field does not exist (the nearest name is suggested).
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no configuration file {str(path)!r}: training/configs/ holds the shipped ones.")
    values = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} is not a YAML mapping of fields to values.")
    for name, value in (overrides or {}).items():
        *parents, leaf = name.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = value
    config = build_config(values)
    _check_names(config.model, PIRConfig, "model.")
    for name, defaults in PIRConfig.sub_configs_defaults.items():
        tower = config.model.get(name)
        if isinstance(tower, dict):
            model_type = tower.get("model_type", defaults.model_type)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"model.{name}.model_type is {model_type!r}, which transformers does not know.")
            _check_names(tower, CONFIG_MAPPING[model_type], f"model.{name}.")
    return config


def _check_names(values: dict[str, Any], owner: type, prefix: str) -> None:
    """One sentence with the nearest name where a field does not exist; transformers itself takes any."""
    names = [spec.name for spec in dataclasses.fields(owner)]
    if prefix:  # a saved configuration also holds what follows from its fields
        names = sorted({*names, *owner.attribute_map, *owner().to_dict()})
    for name in values:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; the fields are {', '.join(names)}."
            raise ValueError(f"There is no configuration field {prefix + name!r}{hint}")


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `field=value` arguments into overrides; values are read as YAML.

    Args:
        assignments: such as ["epochs=3", "model.num_cycles=0"].

    Returns:
        Field to value.

    Raises:
        ValueError: an argument without "=".
    """
    overrides = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ValueError(f"--set takes field=value, but got {assignment!r}.")
        overrides[name] = yaml.safe_load(value)
    return overrides


def config_text(config: TrainConfig) -> str:
    """A configuration as YAML that [`load_config`] reads back."""
    values = dataclasses.asdict(config) | {"adam_betas": list(config.adam_betas)}
    return yaml.safe_dump(values, sort_keys=False)


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Write [`config_text`] to a file."""
    Path(path).write_text(config_text(config))
