"""Write a model folder that loads without this package, and upload it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from .pretrained import check_model_folder, write_checksums

MODEL_FILES = (
    "captions_pir.py", "configuration_pir.py", "images_pir.py", "layers_pir.py", "loss_pir.py", "modeling_pir.py",
    "processing_pir.py", "towers_pir.py",
)  # fmt: skip
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
        shutil.copyfile(Path(__file__).parents[1] / name, output / name)
    _update_json(output / "config.json", {"auto_map": AUTO_MAP})
    _update_json(output / "processor_config.json", {"auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}})
    write_sentence_transformers_files(output)
    write_checksums(output)


def write_sentence_transformers_files(folder: Path) -> None:
    """Write what makes a model folder one of sentence-transformers."""
    for name, content in SENTENCE_TRANSFORMERS_FILES.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


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
        raise ValueError(f"{repo_id!r} is not a repository id of the form org/name: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} is not a repository id of the form org/name: put your user name in front.")


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
