"""Any dual encoder behind one small interface, so that peers are measured by the code that measures us.

Three families: PIR, dual encoders of transformers (CLIP, SigLIP, ALIGN, VisionTextDualEncoder, ...) and models of
sentence-transformers (`pip install "modeling-pir[eval]"`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate import PartialState
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.extras import need
from modeling_pir.inference.embed import embed_distinct, embed_images, embed_in_batches, embed_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Encoder(Protocol):
    """A model with an image and a text side."""

    model: torch.nn.Module
    family: str

    def embed_images(
        self, images: Iterable[Image.Image], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """Embed RGB images, read one batch at a time; (images, dim) float32 on the CPU, unit norm."""

    def embed_texts(
        self, texts: list[str], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """Embed texts, each distinct one once; (texts, dim) float32 on the CPU, unit norm."""


@dataclass
class PIREncoder:
    """PIR, by `modeling_pir.inference.embed`."""

    model: PIRModel
    processor: PIRProcessor
    family: str = "PIR"

    def embed_images(
        self, images: Iterable[Image.Image], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""
        return embed_images(self.model, self.processor, images, batch_size, dtype, progress)

    def embed_texts(
        self, texts: list[str], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""
        return embed_texts(self.model, self.processor, texts, batch_size, dtype, progress)


@dataclass
class DualEncoder:
    """A dual encoder of transformers, by its own processor: `get_image_features` and `get_text_features`."""

    model: PreTrainedModel
    processor: ProcessorMixin
    family: str = "transformers"

    def embed_images(
        self, images: Iterable[Image.Image], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""

        def encode(batch: list[Image.Image]) -> torch.Tensor:
            inputs = self.processor(images=batch, return_tensors="pt").to(self.model.device, self.model.dtype)
            return _pooled(self.model.get_image_features(**inputs))

        return embed_in_batches(encode, self.model, images, batch_size, dtype, progress)

    def embed_texts(
        self, texts: list[str], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""
        settings = text_settings(self.model, self.processor)

        def encode(batch: list[str]) -> torch.Tensor:
            inputs = self.processor(text=batch, return_tensors="pt", **settings).to(self.model.device)
            return _pooled(self.model.get_text_features(**inputs))

        return embed_distinct(encode, self.model, texts, batch_size, dtype, progress)


@dataclass
class SentenceEncoder:
    """A model of sentence-transformers that takes images, too."""

    model: "SentenceTransformer"
    family: str = "sentence-transformers"

    def _encode(self, batch: list) -> torch.Tensor:
        return self.model.encode(batch, batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False)

    def embed_images(
        self, images: Iterable[Image.Image], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""
        return embed_in_batches(self._encode, self.model, images, batch_size, dtype, progress)

    def embed_texts(
        self, texts: list[str], batch_size: int, dtype: torch.dtype | None, progress: str | None
    ) -> torch.Tensor:
        """See [`Encoder`]."""
        return embed_distinct(self._encode, self.model, texts, batch_size, dtype, progress)


def load_encoder(model: str) -> Encoder:
    """Load a model and its processor on the accelerator, or on the CPU where there is none.

    Args:
        model: Hub id or folder.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        ValueError: nothing there, or a model without an image or a text side.
        ImportError: a model of sentence-transformers, which is not installed.
    """
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in ("config.json", "modules.json")):
        raise ValueError(f"{model!r} is no model folder: it has no config.json; give the folder with the weights.")
    if _has_file(model, "modules.json"):
        return _load_sentence_encoder(model)
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{model!r} cannot be loaded: {' '.join(str(error).split())}") from error
    device = PartialState().device
    if config.model_type == "pir":
        return PIREncoder(PIRModel.from_pretrained(model).to(device).eval(), PIRProcessor.from_pretrained(model))
    network = AutoModel.from_pretrained(model, trust_remote_code=False)
    for side in ("image", "text"):
        if not hasattr(network, f"get_{side}_features"):
            raise ValueError(
                f"{model!r} is a {type(network).__name__}, which has no {side} side: retrieval needs a model that "
                "embeds both images and texts, such as CLIP, SigLIP or PIR."
            )
    try:
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"The processor of {model!r} cannot be loaded: {' '.join(str(error).split())}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"{model!r} comes with a {type(processor).__name__} alone: save its image processor and its tokenizer, "
            "as one processor, beside the weights."
        )
    return DualEncoder(network.to(device).eval(), processor)


def _has_file(model: str, name: str) -> bool:
    if Path(model).is_dir():
        return (Path(model) / name).is_file()
    causes = ("missing_entries", "gated_repo", "connection_errors")
    return cached_file(model, name, **{f"_raise_exceptions_for_{cause}": False for cause in causes}) is not None


def _load_sentence_encoder(model: str) -> SentenceEncoder:
    library = need("sentence_transformers", "eval", f"{model!r} is a model of sentence-transformers, which needs")
    network = library.SentenceTransformer(model, device=str(PartialState().device), trust_remote_code=False)
    for side in ("image", "text"):
        if not network.supports(side):
            raise ValueError(
                f"{model!r} embeds {', '.join(map(str, network.modalities))} only and has no {side} side: retrieval "
                "needs a model that embeds both images and texts, such as clip-ViT-B-32."
            )
    return SentenceEncoder(network.eval())


def text_settings(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, object]:
    """How texts are padded and cut: SigLIP was trained on texts padded to their full length, the others were not.

    Args:
        model: of transformers.
        processor: its processor.

    Returns:
        Arguments of the processor.
    """
    limits = [processor.tokenizer.model_max_length]  # 1e30 where the tokenizer does not say
    text_config = getattr(model.config, "text_config", model.config)
    limits.append(getattr(text_config, "max_position_embeddings", None) or limits[0])
    padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
    return {"padding": padding, "truncation": True, "max_length": min(limits)}


def _pooled(features: torch.Tensor | BaseModelOutputWithPooling) -> torch.Tensor:
    """The projected features (batch, dim); models outside of transformers 5 hand on the tensor itself."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output
