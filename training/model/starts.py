"""Reject contradictory settings of a run before any work, since one of them would be ignored."""

from pathlib import Path

from transformers.utils import cached_file

from modeling_pir import PIRConfig, PIRProcessor
from modeling_pir.processing_pir import image_size
from training.config import TrainConfig


def check_starts(config: TrainConfig) -> None:
    """Refuse fields that another field makes void.

    Args:
        config: of the run.

    Raises:
        ValueError: with both fields and which of them to leave out.
    """
    defaults = TrainConfig()
    taken = {
        "backbones": "towers",
        "init_vision": "vision tower",
        "init_instruction": "prior",
        "tokenizer": "tokenizer",
    }
    for name, part in taken.items() if config.init_from is not None else ():
        if getattr(config, name) != getattr(defaults, name):
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, but init_from brings its own {part}: leave {name} or init_from "
                "out."
            )
    if config.backbones is not None and config.init_vision is not None:
        raise ValueError(
            f"init_vision is {config.init_vision!r}, but backbones names a vision tower: name it there, "
            f"backbones: {{vision: {config.init_vision}}}."
        )
    if config.init_instruction is not None and "instruction" in (config.backbones or {}):
        raise ValueError(
            f"init_instruction is {config.init_instruction!r}, but backbones names an instruction tower: leave one out."
        )
    if config.init_from is None and not _has_prior(config):
        for name in ("init_instruction", "instruction_epochs"):
            if getattr(config, name) != getattr(defaults, name):
                raise ValueError(
                    f"{name} is {getattr(config, name)!r}, but the model has no instruction tower "
                    f"(num_instruction_layers=0 or use_instruction=false): leave {name} out."
                )


def check_parts(config: TrainConfig) -> None:
    """Refuse towers, tokenizers and models that are not there, before the data are read or a sweep's first run starts.

    Args:
        config: of the run.

    Raises:
        ValueError: with the field and the name.
    """
    towers = {f"backbones.{part}": name for part, name in (config.backbones or {}).items()}
    towers |= {name: getattr(config, name) for name in ("init_from", "init_vision", "init_instruction")}
    files = {field: (name, "config.json") for field, name in towers.items() if name is not None}
    if config.tokenizer != "train":
        files["tokenizer"] = config.tokenizer, "tokenizer_config.json"
    for field, (name, file) in files.items():
        path = Path(name)
        if path.is_file() or (path / file).is_file():
            continue
        if path.is_dir():
            raise ValueError(f"{field} is {name!r}, but that folder has no {file}: give a complete one.")
        try:
            cached_file(name, file)
        except OSError as error:
            reason = str(error).split("\n")[0].split(". ")[0].rstrip(".")
            raise ValueError(
                f"{field} is {name!r}, which is neither a folder here nor available on the Hub ({reason}): make it "
                "first, or correct the name."
            ) from error


def _has_prior(config: TrainConfig) -> bool:
    layers = config.model.get("num_instruction_layers", PIRConfig.num_instruction_layers)
    return bool(layers and config.model.get("use_instruction", PIRConfig.use_instruction))


def check_processor(config: TrainConfig, processor: PIRProcessor) -> None:
    """Refuse settings of images and captions that the processor of `init_from` would overrule.

    Args:
        config: of the run.
        processor: that `init_from` brought.

    Raises:
        ValueError: with the field and what the processor does.
    """
    side, _ = image_size(processor.image_processor)
    if config.image_size not in (0, side):
        raise ValueError(
            f"image_size is {config.image_size}, but the processor of {config.init_from!r} makes images of {side} "
            "pixels: leave image_size out."
        )
    if config.caption_cleaning != processor.caption_cleaning:
        does = "cleans" if processor.caption_cleaning else "does not clean"
        raise ValueError(
            f"caption_cleaning is {config.caption_cleaning}, but the processor of {config.init_from!r} {does} "
            f"captions: set caption_cleaning to {str(processor.caption_cleaning).lower()}."
        )
