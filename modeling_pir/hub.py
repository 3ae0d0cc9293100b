"""At home on the Hub: load and check a model, write a folder that loads without this package, upload it at once."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from .configuration_pir import PIRConfig
from .modeling_pir import PIRModel
from .processing_pir import PIRProcessor

MODEL_FILES = ("configuration_pir.py", "layers_pir.py", "loss_pir.py", "modeling_pir.py", "processing_pir.py")
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")
AUTO_MAP = {
    "AutoConfig": "configuration_pir.PIRConfig",
    "AutoModel": "modeling_pir.PIRModel",
    "AutoModelForZeroShotImageClassification": "modeling_pir.PIRModel",
    "AutoProcessor": "processing_pir.PIRProcessor",
}
# What sentence-transformers reads: which method embeds what, and that `encode` gives unit vectors.
SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
}
# The error of the HTTP client that huggingface_hub builds on, which is not the same library in all its versions.
HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]


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


def copy_model(model_folder: str | Path, output: str | Path) -> None:
    """Copy a model and its processor byte for byte, without pictures and whatever else lies beside them.

    Args:
        model_folder: what `save_pretrained` of both wrote; it is only read.
        output: an existing folder.
    """
    for file in sorted(Path(model_folder).iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".jinja"):
            shutil.copyfile(file, Path(output) / file.name)


def write_hub_folder(model_folder: str | Path, output: str | Path) -> None:
    """Write what goes to the Hub: the model byte for byte, and all that it takes to load without this package.

    Args:
        model_folder: a folder with model and processor; it is only read.
        output: an existing folder.

    Raises:
        ValueError: see [`check_model_folder`].
    """
    check_model_folder(model_folder)
    output = Path(output)
    copy_model(model_folder, output)
    for name in MODEL_FILES:
        shutil.copyfile(Path(__file__).parent / name, output / name)
    _update_json(output / "config.json", {"auto_map": AUTO_MAP})
    _update_json(output / "processor_config.json", {"auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}})
    for name, content in SENTENCE_TRANSFORMERS_FILES.items():
        (output / name).write_text(json.dumps(content, indent=2) + "\n")


def _update_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2) + "\n")


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no repository id.

    Args:
        repo_id: such as "org/pir-rsicd".

    Raises:
        ValueError: with the form it has to have.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository id, it has to look like org/name: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} is no repository id, it has to look like org/name: put your user name in front.")


def upload(folder: str | Path, repo_id: str, message: str, private: bool = False) -> CommitInfo:
    """Upload a folder in one commit; before that commit the repository is as it was, so a failure can be repeated.

    Args:
        folder: every file in it is uploaded.
        repo_id: "org/name"; made where it does not exist.
        message: of the commit.
        private: make a new repository private.

    Returns:
        The commit.

    Raises:
        ValueError: a wrong id, no token or one that may not write, the Hub out of reach, an upload that was cut off, or
            a private upload to a public repository.
    """
    check_repo_id(repo_id)
    if get_token() is None:
        raise ValueError("There is no Hub token: run `hf auth login`, or set HF_TOKEN to a token that may write.")
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    api = HfApi()
    with _hub_errors(api.endpoint, repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"{repo_id} exists and is public: leave out --private, or make it private on its page first."
            )
        # Not upload_folder: it may split an upload into several commits.
        return api.create_commit(repo_id, operations, commit_message=message)


@contextmanager
def _hub_errors(endpoint: str, repo_id: str) -> Iterator[None]:
    """Turn what the Hub and its client raise into one sentence."""
    again = "The repository and the local files are unchanged, the same command can be repeated."
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ValueError(
                f"The Hub refuses the token for {repo_id} ({status}): use one that may write there."
            ) from error
        raise ValueError(
            f"The Hub refused the upload to {repo_id} ({error.server_message or error}). {again}"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ValueError("HF_HUB_OFFLINE is set, nothing can be uploaded: unset it and repeat the command.") from error
    except (HTTPError, RuntimeError) as error:  # RuntimeError: what huggingface_hub makes of a large file's failure
        raise ValueError(f"The connection to {endpoint} failed or broke off ({error}). {again}") from error
