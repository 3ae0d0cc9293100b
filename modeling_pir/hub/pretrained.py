"""Load a model and check that it is complete; every command loads its models here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import HTTPError  # of its HTTP client, which is not the same in all its versions
from safetensors import SafetensorError, safe_open

from ..configuration_pir import PIRConfig
from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")
CHECKSUMS = "SHA256SUMS"  # as sha256sum writes and checks it
POINTER = b"version https://git-lfs"
MAX_SPARE_PIECES = 127  # some checkpoints round their vocabulary up to a multiple of 64 or 128
NUM_NAMED = 3


def file_hash(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_hash(folder: str | Path) -> str:
    """Fingerprint of a model's weights, which ties metrics to the model they were measured with.

    Args:
        folder: a `from_pretrained` folder.

    Returns:
        Hexadecimal SHA-256 over the safetensors files in order of name; of a single file, what the Hub shows beside it.

    Raises:
        ValueError: there are no weights in the folder.
    """
    files = _weight_files(Path(folder))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for suffix in ("bin", "pt", "pth") for file in folder.glob(f"*.{suffix}"))
        if pickles:
            raise ValueError(
                f"{str(folder)!r} holds its weights as a pickle ({pickles[0]}), which is not loaded: save them as "
                "safetensors in the project they come from (save_pretrained does)."
            )
        raise ValueError(
            f"There are no weights (*.safetensors) in {str(folder)!r}: name a folder save_pretrained wrote."
        )
    return files


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of a model's files, which [`check_model_folder`] compares: a changed byte does not go unseen."""
    files = sorted(file for pattern in ("*.json", "*.safetensors") for file in folder.glob(pattern))
    (folder / CHECKSUMS).write_text("".join(f"{file_hash(file)}  {file.name}\n" for file in files))


def read_json(file: Path) -> dict:
    """A JSON file of a model.

    Raises:
        ValueError: with the file's name, where it is no JSON mapping.
    """
    try:
        values = json.loads(file.read_text())
    except ValueError as error:  # of the decoder, JSON's or UTF-8's
        reason = "it is a pointer of Git LFS" if _is_pointer(file) else str(error)
        raise ValueError(f"{file} is not JSON ({reason}): copy or download it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}, not a JSON mapping: copy or download it again.")
    return values


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def check_config(values: dict, name: str) -> None:
    """Refuse a configuration that this version of the package does not understand in full.

    Args:
        values: content of config.json.
        name: what errors call the model.

    Raises:
        ValueError: another kind of model, fields that a newer version has added, or values that fit no model.
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
    """Check that a folder is complete and whole: configuration, processor, weights, and SHA256SUMS where it has one.

    Args:
        folder: what `save_pretrained` of model and processor wrote.

    Raises:
        ValueError: with what is missing or broken.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder, it has no config.json: name one that save_pretrained wrote.")
    check_config(read_json(folder / "config.json"), str(folder))
    for name in PROCESSOR_FILES:
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no processor ({name} is missing): call processor.save_pretrained({str(folder)!r})."
            )
        read_json(folder / name)
    for file in _weight_files(folder):
        if _is_pointer(file):
            raise ValueError(f"{file} is a pointer of Git LFS, not the weights: run git lfs pull in its repository.")
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is cut off or damaged ({error}): copy or download it again.") from error
    _check_checksums(folder)


def _check_checksums(folder: Path) -> None:
    sums = folder / CHECKSUMS
    for line in sums.read_text(errors="replace").splitlines() if sums.is_file() else []:
        digest, _, name = line.partition("  ")
        file = folder / Path(name).name
        if not file.is_file() or file_hash(file) != digest:
            raise ValueError(
                f"{file} is not the file that was saved, says {CHECKSUMS} beside it: copy or download it again, or "
                f"remove {CHECKSUMS} if you changed the model yourself."
            )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, text_config: object, name: str) -> None:
    """Refuse a tokenizer whose numbers mean other words to the text tower, or none.

    Args:
        tokenizer: of the processor.
        text_config: of the text tower.
        name: what errors call the model.

    Raises:
        ValueError: another size than the tower's, or special tokens that are missing, elsewhere or not added.
    """
    size, known = len(tokenizer), text_config.vocab_size
    again = "take the tokenizer that was saved with the model"
    if not 0 <= known - size <= MAX_SPARE_PIECES:
        raise ValueError(
            f"The tokenizer of {name} has {size} pieces, but its text tower has embeddings for {known}: {again}."
        )
    ids = tokenizer("a field")["input_ids"]
    ends = {"first": (tokenizer.cls_token_id, ids[0]), "last": (tokenizer.sep_token_id, ids[-1])}
    if "clip" in text_config.model_type:  # pools where its end token is; padded with anything
        if text_config.eos_token_id != 2:  # 2: of old checkpoints, which pool at the largest number
            ends["last"] = (text_config.eos_token_id, ids[-1])
    elif text_config.pad_token_id is not None:
        ends["padding"] = (text_config.pad_token_id, tokenizer.pad_token_id)
    for place, (expected, found) in ends.items():
        if expected is not None and expected != found:
            raise ValueError(
                f"The tokenizer of {name} does not fit its text tower: its {place} token is {found}, which should be "
                f"{expected}: {again}."
            )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer of {name} has no padding token: {again}.")


def check_weights(model: PreTrainedModel, report: dict, name: str) -> None:
    """Refuse a model that is not, tensor for tensor, what its checkpoint holds.

    Args:
        model: as loaded.
        report: of `from_pretrained(..., output_loading_info=True)`.
        name: what errors call the model.

    Raises:
        ValueError: keys that are missing, unexpected or of another shape, or weights that are no numbers.
    """
    parts = []
    kinds = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "of another shape"}
    for kind, words in kinds.items():
        keys = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        if keys:
            more = ", ..." if len(keys) > NUM_NAMED else ""
            parts.append(f"{len(keys)} {words} ({', '.join(keys[:NUM_NAMED])}{more})")
    if parts:
        raise ValueError(
            f"The weights of {name} are not those of its configuration: {'; '.join(parts)}. Copy or download the model "
            "again."
        )
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"The weights of {name} are broken: {key} holds values that are not finite (NaN or infinity). Copy or "
                "download the model again, or train it again with a lower learning rate."
            )


def load_pretrained(
    name_or_path: str | Path, revision: str | None = None, **fields: object
) -> tuple[PIRModel, PIRProcessor]:
    """Load a model and its processor, with one sentence about what is wrong where that fails.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        fields: of the configuration, to be changed; what they add to the model has random weights.

    Returns:
        The model, in evaluation mode, and the processor.

    Raises:
        ValueError: nothing there, the Hub out of reach, damaged or incomplete weights, no processor or one that does
            not fit, a configuration that is newer than this package.
    """
    name = str(name_or_path)
    if Path(name).is_file():
        raise ValueError(f"{name!r} is a file: name the model's folder, or make one of a .pth with pir convert.")
    if Path(name).is_dir():
        check_model_folder(name)
    try:
        values, _ = PIRConfig.get_config_dict(name, revision=revision)
        check_config(values, name)
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = PIRModel.from_pretrained(name, revision=revision, **options)
        check_weights(model, report, name)
        processor = PIRProcessor.from_pretrained(name, revision=revision)
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name} are cut off or damaged ({error}): load them with force_download=True."
        ) from error
    except (OSError, HTTPError) as error:
        raise ValueError(
            f"{name} cannot be loaded: give a folder save_pretrained wrote, or the id of a PIR model on the Hub and "
            f"check the connection. ({_reason(error)})"
        ) from error
    except ValueError:
        raise
    except Exception as error:  # a damaged configuration makes transformers fail with almost any type
        raise ValueError(
            f"{name} cannot be loaded, its configuration or its tokenizer is damaged ({_reason(error)}): copy or "
            "download it again."
        ) from error
    check_tokenizer(processor.tokenizer, model.config.text_config, name)
    if fields:
        model = PIRModel.from_pretrained(name, revision=revision, **fields)
    return model, processor


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
