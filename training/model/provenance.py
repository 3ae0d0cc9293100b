"""Describe where the weights of a tower come from."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers.utils import cached_file

from modeling_pir import PIRModel
from training.config import TrainConfig
from training.data.catalog import NAMES, known_dataset

FACTS_FILE = "instruction.json"  # beside a tower's weights: on what it was trained
PRUNED_FILE = "pruned.json"  # beside a tower's weights: what it was cut from


def describe_facts(facts: dict[str, Any]) -> str:
    """On what a tower was trained, in words, for reports and cards."""
    name = Path(facts["data"]).name
    words = (
        f"Trained for {facts['epochs']} epochs to tell the {len(facts['scenes'])} scenes of {name} apart "
        f"({facts['train_images']} images; {facts['scene_accuracy']:.1f} % right on its {facts['validation_images']} "
        "validation images)."
    )
    count = len(facts["overlap"])
    if count and facts["overlap_allowed"]:
        words += f" {count} of its training images are also in the retrieval test split (--allow-overlap): a LEAK."
    elif count:
        words += f" {count} images that are also in the retrieval test split were left out."
    else:
        words += " None of its training images was found in the retrieval test split."
    return words


def describe_pruned(facts: dict[str, Any]) -> str:
    """What a pruned tower is, in words, from its `pruned.json`, for reports and cards."""
    layers = ", ".join(str(layer) for layer in facts["layers"])
    return (
        f"Layers {layers} of the {facts['of_layers']} of {facts['source']}, with {facts['pieces']:,} of its "
        f"{facts['of_pieces']:,} word pieces."
    )


def describe_prior(config: TrainConfig, model: PIRModel, prior: dict[str, float] | None) -> str:
    """Where the instruction encoder's weights come from."""
    if not model.config.has_instruction:
        return "None."
    if config.init_from is not None:
        origin = f"as it is in {public_name(config.init_from)}"
    elif config.init_instruction is not None:
        origin = f"loaded from {public_name(config.init_instruction)}"
    elif config.backbones is not None:
        origin = f"loaded from {public_name(config.backbones['instruction'])}"
    else:
        origin = "random weights"
    sentence = f"Start: {origin}."
    if known := describe_starts(config).get("instruction"):
        sentence += f" {known}"
    if prior is not None:
        sentence += (
            f" Then trained for {config.instruction_epochs} epochs to tell the scenes of the training split apart "
            f"({prior['scene_accuracy']:.1f} % right on validation, {prior['seconds']:.0f} seconds)."
        )
    frozen = model.config.freeze_instruction_encoder
    return sentence + (" Frozen in the joint training." if frozen else " Trained on in the joint training.")


def public_name(source: str) -> str:
    """A Hub id as it is; of a folder or a file its name, because the words go into the published card."""
    return Path(source).name if Path(source).exists() else source


def describe_base(init_from: str) -> str:
    """The model that a run fine-tunes, with its licence and its data, as its card names them."""
    name = public_name(init_from)
    if Path(init_from).is_dir():
        card = Path(init_from, "README.md")
    else:
        card = cached_file(init_from, "README.md", _raise_exceptions_for_missing_entries=False)
    if card is None or not Path(card).is_file():
        return f"`{name}`, which has no card: its data and licence are not known."
    facts = ModelCard.load(card).data
    licence = (
        f"weights under {facts.license}" if facts.license else "weights under a licence that its card does not name"
    )
    sources = [facts.datasets] if isinstance(facts.datasets, str) else facts.datasets or []
    known = {dataset.hub_id: dataset for dataset in map(known_dataset, NAMES) if dataset.hub_id}
    data = [f"{source} ({known[source].licence})" if source in known else source for source in sources]
    return f"`{name}`, {licence}, trained on {', '.join(data) or 'data that its card does not name'}."


def describe_starts(config: TrainConfig) -> dict[str, str]:
    """What a run starts from: `base`, the whole model that it fine-tunes, and by part the towers that we made."""
    folders = dict(config.backbones or {})
    folders |= {"vision": config.init_vision} if config.init_vision else {}
    folders |= {"instruction": config.init_instruction} if config.init_instruction else {}
    starts = {"base": describe_base(config.init_from)} if config.init_from else {}
    for part, folder in folders.items():
        for name, describe in ((FACTS_FILE, describe_facts), (PRUNED_FILE, describe_pruned)):
            path = Path(folder, name)
            if path.is_file():
                starts[part] = describe(json.loads(path.read_text()))
    return starts
