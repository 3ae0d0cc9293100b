"""Any dual encoder that `load_encoder` knows (PIR, CLIP, ...) as a model of mteb."""

import itertools
from pathlib import Path
from typing import Any

import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import BatchedInput, PromptType
from torch.utils.data import DataLoader

from modeling_pir.hub.pretrained import weights_hash
from modeling_pir.inference.encoder import Encoder, load_encoder


class MTEBEncoder(AbsEncoder):
    """A dual encoder whose vectors have unit norm; texts take no prompt.

    Args:
        encoder: of `load_encoder`.
        name: of the model in mteb's result files, `OWNER/NAME`.
        revision: of the model.
    """

    def __init__(self, encoder: Encoder, name: str, revision: str) -> None:
        self.encoder = encoder
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": revision,
                "modalities": ["image", "text"],
                "n_parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch", "Transformers"],
            }
        )

    def encode(
        self, inputs: DataLoader[BatchedInput], *, prompt_type: PromptType | None = None, batch_size: int = 64, **_: Any
    ) -> torch.Tensor:
        """Embed images or texts.

        Args:
            inputs: batches with `image` or `text`, of one task.
            prompt_type: query or document, which are embedded alike.
            batch_size: images or texts encoded at once.
            _: what else mteb tells of the task.

        Returns:
            (items, dim) float32, unit norm.
        """
        if "image" in inputs.dataset.column_names:
            images = itertools.chain.from_iterable(batch["image"] for batch in inputs)
            return self.encoder.embed_images(images, batch_size, None, None)
        texts = [text for batch in inputs for text in batch["text"]]
        return self.encoder.embed_texts(texts, batch_size, None, None)


def load_mteb_encoder(name_or_path: str) -> MTEBEncoder:
    """Load a model for `mteb.evaluate`.

    Args:
        name_or_path: Hub id or folder, see `load_encoder`.

    Returns:
        The model. mteb's files name it as the Hub does; a folder by its name alone, and its weights by their hash.

    Raises:
        ValueError: a model that cannot be loaded.
    """
    encoder = load_encoder(name_or_path)
    if Path(name_or_path).is_dir():
        return MTEBEncoder(encoder, f"local/{Path(name_or_path).resolve().name}", weights_hash(name_or_path)[:16])
    return MTEBEncoder(encoder, name_or_path, "main")
