"""Run a model's text side without importing torch and transformers, so that a search starts at once.

`convert.export_text` makes the folder of a text encoder; here it is found and run with ONNX Runtime and tokenizers.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..captions_pir import clean_caption

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROGRAM = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
SETTINGS = "settings.json"
BANK = "bank.npy"  # embeddings of the sentences that hubness is measured by
VERSION = "1"  # of what is in the folder


def cache_folder() -> Path:
    """Where exported sides of models are kept: `PIR_CACHE`, else a folder in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("PIR_CACHE") or os.path.join(root, "modeling_pir"))


def text_encoder_folder(weights: str) -> Path:
    """Where the text encoder of a model is kept, whether it is there or not.

    Args:
        weights: fingerprint of the model's weights, see `hub.pretrained.weights_fingerprint`.

    Returns:
        A folder below [`cache_folder`].
    """
    return cache_folder() / f"text_encoders_{VERSION}" / weights


def is_wanted() -> bool:
    """Whether text sides are exported and used; the environment variable PIR_TEXT_ENCODER=torch forbids it."""
    return os.environ.get("PIR_TEXT_ENCODER") != "torch"


def find_text_encoder(weights: str) -> OnnxTextEncoder | None:
    """The exported text side of a model.

    Args:
        weights: fingerprint of the model's weights.

    Returns:
        None if it was not exported on this machine, if onnxruntime is missing, or if `PIR_TEXT_ENCODER` is "torch".

    Raises:
        ValueError: it is there, but damaged.
    """
    folder = text_encoder_folder(weights)
    if not is_wanted() or importlib.util.find_spec("onnxruntime") is None or not folder.is_dir():
        return None
    try:
        return OnnxTextEncoder(folder)
    except Exception as error:  # onnxruntime and tokenizers raise types of their own
        raise ValueError(f"The text encoder in {folder} is damaged ({error}): remove that folder.") from error


@dataclass(frozen=True)
class Reading:
    """How a model reads a sentence.

    Attributes:
        tokenizer: that neither cuts nor pads.
        unknown_piece: its token for what it does not know; None if it knows every byte.
        max_tokens: that the model reads, those that begin and end a text among them.
        clean_captions: whether texts are cleaned first.
    """

    tokenizer: Tokenizer
    unknown_piece: str | None
    max_tokens: int
    clean_captions: bool

    def prepare(self, text: str) -> str:
        """The text as the tokenizer gets it.

        Raises:
            ValueError: cleaning leaves nothing of it.
        """
        return clean_caption(text) if self.clean_captions else text


class OnnxTextEncoder:
    """The text side of a model in ONNX Runtime.

    Args:
        folder: of a text encoder.

    Attributes:
        reading: how it reads a sentence.

    Raises:
        ImportError: onnxruntime is missing.
        OSError: the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer

        options = SessionOptions()
        options.intra_op_num_threads = min(4, os.cpu_count() or 1)  # a sentence is not worth more
        # Else its threads spin for a while after each sentence, and take the processors from the search that follows.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._folder = folder
        self._settings: dict = json.loads((folder / SETTINGS).read_text())
        known = {name: self._settings[name] for name in ("unknown_piece", "max_tokens", "clean_captions")}
        self.reading = Reading(Tokenizer.from_file(str(folder / TOKENIZER)), **known)
        self._session = InferenceSession(str(folder / PROGRAM), options, providers=["CPUExecutionProvider"])

    @cached_property
    def bank(self) -> np.ndarray:
        """The sentences that hubness is measured by, as vectors (sentences, dim)."""
        return np.load(self._folder / BANK)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Args:
            texts: sentences, each embedded by itself.

        Returns:
            (texts, dim) float32, unit norm.

        Raises:
            ValueError: an empty text, or one that cleaning leaves nothing of.
        """
        return np.concatenate([self._session.run(None, self._inputs(text))[0] for text in texts])

    def _inputs(self, text: str) -> dict[str, np.ndarray]:
        """What the model reads of a text, (1, length) each."""
        settings, limit = self._settings, self.reading.max_tokens
        tokenizer = self.reading.tokenizer
        tokenizer.enable_truncation(limit)
        ids = tokenizer.encode(self.reading.prepare(text)).ids
        tokenizer.no_truncation()
        padding = limit - len(ids) if settings["pads_to_full_length"] else 0
        values = {
            "input_ids": [*ids, *[settings["pad_id"]] * padding],
            "attention_mask": [*[1] * len(ids), *[0] * padding],
            "token_type_ids": [0] * (len(ids) + padding),
        }
        return {name: np.array([values[name]], dtype=np.int64) for name in settings["inputs"]}
