"""Load a model and check that it is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub.errors import HTTPError  # of its HTTP client, which is not the same in all its versions
from safetensors import SafetensorError, safe_open

from ..configuration_pir import PIRConfig
from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor

PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")


def weights_hash(folder: str | Path) -> str:
    """Fingerprint of a model's weights, which ties metrics to the model they were measured with.

    Args:
        folder: a `from_pretrained` folder.

    Returns:
        Hexadecimal SHA-256 over the safetensors files in order of name; of a single file, what the Hub shows beside it.

    Raises:
        ValueError: there are no weights in the folder.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"There are no weights (*.safetensors) in {str(folder)!r}: name a folder save_pretrained wrote."
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_config(values: dict, name: str) -> None:
    """Refuse a configuration that this version of the package does not understand in full.

    Args:
        values: content of config.json.
        name: what errors call the model.

    Raises:
        ValueError: another kind of model, or fields that a newer version has added.
    """
    if values.get("model_type") != PIRConfig.model_type:
        raise ValueError(f"{name} holds a model of type {values.get('model_type')!r}: a PIR model is needed.")
    known = PIRConfig()
    unknown = [key for key in values if not hasattr(known, key) and key not in ("auto_map", "transformers_version")]
    if unknown:
        raise ValueError(
            f"{name} is newer than this package, which does not know the configuration field {unknown[0]!r}: "
            "pip install --upgrade modeling-pir, or load it with the code beside its weights by "
            "AutoModel.from_pretrained(..., trust_remote_code=True)."
        )


def check_model_folder(folder: str | Path) -> None:
    """Check that a folder is complete and whole: configuration, processor, weights.

    Args:
        folder: what `save_pretrained` of model and processor wrote.

    Raises:
        ValueError: with what is missing or broken.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no model folder, it has no config.json: name one that save_pretrained wrote.")
    check_config(json.loads((folder / "config.json").read_text()), str(folder))
    for name in PROCESSOR_FILES:
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no processor ({name} is missing): call processor.save_pretrained({str(folder)!r})."
            )
    weights_hash(folder)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is cut off or damaged ({error}): copy or download it again.") from error


def load_pretrained(name_or_path: str | Path, revision: str | None = None) -> tuple[PIRModel, PIRProcessor]:
    """Load a model and its processor, with one sentence about what is wrong where that fails.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit on the Hub.

    Returns:
        The model, in evaluation mode, and the processor.

    Raises:
        ValueError: nothing there, the Hub out of reach, damaged weights, no processor, a configuration that is newer
            than this package.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        check_model_folder(name)
    try:
        values, _ = PIRConfig.get_config_dict(name, revision=revision)
        check_config(values, name)
        model = PIRModel.from_pretrained(name, revision=revision)
        return model, PIRProcessor.from_pretrained(name, revision=revision)
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name} are cut off or damaged ({error}): load them with force_download=True."
        ) from error
    except (OSError, HTTPError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be loaded: give a folder save_pretrained wrote, or the id of a PIR model on the Hub and "
            f"check the connection. ({reason})"
        ) from error
