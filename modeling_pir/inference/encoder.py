"""One interface to any dual encoder, used by the index, the commands and the evaluation.

Three families: PIR, dual encoders of transformers (CLIP, SigLIP, ALIGN, VisionTextDualEncoder, ...) and models of
sentence-transformers (`pip install "modeling-pir[eval]"`).
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from ..auto_classes import PIRModel
from ..errors import need
from ..hub.identity import weights_fingerprint
from ..hub.pretrained import check_weights, load_pretrained
from ..modeling_pir import MAX_LOGIT_SCALE
from .embed import embed_distinct, embed_in_batches, encode_images, encode_texts
from .onnx_text import VERSION, Reading, cache_folder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from sentence_transformers import SentenceTransformer

VISION_PROGRAM = os.path.join("onnx", "vision_model.onnx")  # in a model folder
WEIGHT_FILES = (".pt", ".pth", ".safetensors", ".bin")


class Encoder(ABC):
    """A dual encoder of any family, with one interface; made by [`load_encoder`].

    Args:
        model: in evaluation mode.
        processor: prepares images and texts for the model; None if the model does that itself.
        model_id: Hub id or folder that an index records as its model; None takes the one it was loaded from.
        revision: branch, tag or commit on the Hub that an index records; None takes the one it was loaded from.
    """

    family: str

    def __init__(
        self,
        model: torch.nn.Module,
        processor: ProcessorMixin | None = None,
        model_id: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        model_id = model_id or getattr(model, "name_or_path", None) or None
        self.model_id = os.path.abspath(model_id) if model_id and os.path.isdir(model_id) else model_id
        self.revision = revision or getattr(getattr(model, "config", None), "_commit_hash", None)
        self._dim: int | None = None

    @abstractmethod
    def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
        """Embed RGB images: (images, dim), not normalised."""

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Embed texts: (texts, dim), not normalised."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        if self._dim is None:
            self._dim = embed_in_batches(self.encode_texts, self.model, ["a"], 1).shape[1]
        return self._dim

    @property
    def ground_resolution(self) -> float | None:
        """Metres per pixel of the model's training images; None if its configuration does not say."""
        return getattr(getattr(self.model, "config", None), "ground_resolution", None)

    @property
    def logit_scale(self) -> float | None:
        """The factor on cosines, at most 100; None if the model has none."""
        scales = [weight for name, weight in self.model.named_parameters() if name.split(".")[-1] == "logit_scale"]
        return min(scales[0].detach().float().exp().item(), MAX_LOGIT_SCALE) if scales else None

    @cached_property
    def reading(self) -> Reading | None:
        """How the model tokenizes a sentence; None if its tokenizer is not accessible."""
        return None

    def describe(self) -> dict:
        """What an index stores about its model: origin, fingerprint of the weights, width of the embeddings, family."""
        return {
            "model_id": self.model_id,
            "revision": self.revision,
            "weights": weights_fingerprint(self.model),
            "dim": self.dim,
            "family": self.family,
        }

    def embed_images(
        self,
        images: Iterable[Image.Image],
        batch_size: int = 64,
        dtype: torch.dtype | None = None,
        progress: str | None = None,
    ) -> torch.Tensor:
        """Embed images.

        Args:
            images: RGB images (see `images.open_image`), read one batch at a time.
            batch_size: images encoded at once.
            dtype: such as torch.bfloat16, the precision to compute in; None for the weights' own.
            progress: title of a progress bar; None for none.

        Returns:
            (images, dim) float32 on the CPU, unit norm.
        """
        rows = embed_in_batches(self.encode_images, self.model, images, batch_size, dtype, progress)
        return torch.empty(0, self.dim) if rows is None else rows

    def embed_texts(
        self,
        texts: list[str],
        batch_size: int = 128,
        dtype: torch.dtype | None = None,
        progress: str | None = None,
    ) -> torch.Tensor:
        """Embed texts; equal texts are encoded once, and texts of similar length are batched together.

        Args:
            texts: sentences.
            batch_size: texts encoded at once.
            dtype: see [`Encoder.embed_images`].
            progress: title of a progress bar; None for none.

        Returns:
            (texts, dim) float32 on the CPU, unit norm.
        """
        rows = embed_distinct(self.encode_texts, self.model, texts, batch_size, dtype, progress)
        return torch.empty(0, self.dim) if rows is None else rows


class PIREncoder(Encoder):
    """PIR.

    With `mask_padding=False` (official mode) a text's embedding depends on the padding of its batch.

    Attributes:
        vision_session: the image side in ONNX Runtime, which takes its place; None where torch computes it.
    """

    family = "PIR"
    vision_session: InferenceSession | None = None

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.model.config.projection_dim

    @cached_property
    def reading(self) -> Reading | None:
        """See [`Encoder`]."""
        positions = self.model.config.text_config.max_position_embeddings
        return _reading(self.processor, min(self.processor.text_kwargs["max_length"], positions))

    def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
        """See [`Encoder`]."""
        if self.vision_session is None or torch.is_autocast_enabled("cpu"):  # who asks for a precision gets it
            return encode_images(self.model, self.processor, images)
        pixel_values = self.processor(images=images, return_tensors="np")["pixel_values"]
        return torch.from_numpy(self.vision_session.run(None, {"pixel_values": pixel_values})[0])

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """See [`Encoder`]."""
        return encode_texts(self.model, self.processor, texts)


class DualEncoder(Encoder):
    """A dual encoder of transformers, by its own processor: `get_image_features` and `get_text_features`."""

    family = "transformers"

    @cached_property
    def reading(self) -> Reading | None:
        """See [`Encoder`]."""
        return _reading(self.processor, text_settings(self.model, self.processor)["max_length"])

    def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
        """See [`Encoder`]."""
        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device, self.model.dtype)
        with self._naming("image"):
            return pooled(self.model.get_image_features(**inputs))

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """See [`Encoder`]."""
        settings = text_settings(self.model, self.processor)
        inputs = self.processor(text=texts, return_tensors="pt", **settings).to(self.model.device)
        with self._naming("text"):
            return pooled(self.model.get_text_features(**inputs))

    @contextmanager
    def _naming(self, side: str) -> Iterator[None]:
        """Say of a tower without a pooled vector, which transformers asks of any, that this is what is missing."""
        try:
            yield
        except AttributeError as error:
            name = self.model.name_or_path or type(self.model).__name__
            raise ValueError(
                f"{name} gives no {side} vectors ({error}): its {side} tower has no pooled output, so choose a model "
                "whose tower has one."
            ) from error


class SentenceEncoder(Encoder):
    """A model of sentence-transformers that takes images, too."""

    family = "sentence-transformers"
    model: SentenceTransformer

    def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
        """See [`Encoder`]."""
        return self.model.encode(images, batch_size=len(images), convert_to_tensor=True, show_progress_bar=False)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """See [`Encoder`]."""
        return self.model.encode(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)


def _reading(processor: ProcessorMixin, max_tokens: int) -> Reading | None:
    """How texts are read by a processor with one of the fast tokenizers."""
    tokenizer = getattr(processor.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        return None
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # whoever sets its cutting and padding means the processor's
    tokenizer.no_truncation()
    tokenizer.no_padding()
    is_cleaned = bool(getattr(processor, "caption_cleaning", False))
    unknown = processor.tokenizer.unk_token if processor.tokenizer.unk_token != processor.tokenizer.eos_token else None
    return Reading(tokenizer, unknown, max_tokens, is_cleaned)


def load_encoder(model: str, revision: str | None = None, device: str | torch.device | None = None) -> Encoder:
    """Load a model and its processor.

    Args:
        model: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        device: device to run on; None takes a GPU if there is one.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        ValueError: no model of that name, or one without an image or a text side.
        ImportError: a model of sentence-transformers, which is not installed.

    Example:
    ```python
    >>> from modeling_pir import load_encoder

    >>> encoder = load_encoder("hub_configs/pir-small-rsicd")
    >>> images, texts = encoder.embed_images([image]), encoder.embed_texts(["a forest", "an airport"])  # unit norm
    >>> (images @ texts.T).shape  # cosines
    torch.Size([1, 2])
    ```
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if model.endswith(WEIGHT_FILES) and Path(model).is_file():
        raise ValueError(f"{model!r} is a file of weights: make a model folder of it with pir convert {model} FOLDER.")
    if model.startswith(("/", ".", "~")) and not Path(model).exists():
        raise ValueError(
            f"{model} cannot be loaded: there is no such folder; give a model's folder, or its id on the Hub."
        )
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in ("config.json", "modules.json")):
        raise ValueError(f"{model!r} is not a model folder: it has no config.json; give the folder with the weights.")
    try:
        is_pir = _is_pir(model, revision)
        is_of_sentences = not is_pir and _has_file(model, "modules.json", revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"{model} cannot be loaded: {' '.join(str(error).split())}") from error
    if is_pir:
        network, processor = load_pretrained(model, revision)
        encoder = PIREncoder(network.to(device), processor)
        encoder.vision_session = _vision_session(network, Path(model))
        return encoder
    if is_of_sentences:
        return _load_sentence_encoder(model, revision, device)
    return _load_dual_encoder(model, revision, device)


def _is_pir(model: str, revision: str | None) -> bool:
    """Whether a folder holds a PIR; a published one has a `modules.json` as well, for sentence-transformers."""
    if not _has_file(model, "config.json", revision):
        return False
    facts, _ = PIRModel.config_class.get_config_dict(model, revision=revision)
    return facts.get("model_type") == PIRModel.config_class.model_type


def image_program(weights: str) -> Path:
    """Where the image side that `pir index` exports of a model is kept, whether it is there or not.

    Args:
        weights: fingerprint of the model's weights.
    """
    return cache_folder() / f"image_encoders_{VERSION}" / weights / Path(VISION_PROGRAM).name


def runs_on_onnx(network: PIRModel) -> bool:
    """Whether ONNX Runtime computes the image side where it can: on a CPU, unless PIR_IMAGE_ENCODER is "torch"."""
    is_wanted = os.environ.get("PIR_IMAGE_ENCODER") != "torch" and importlib.util.find_spec("onnxruntime") is not None
    return is_wanted and network.device.type == "cpu"


def _vision_session(network: PIRModel, folder: Path) -> InferenceSession | None:
    """The image side in ONNX Runtime: on a CPU faster than torch, and equal to 1e-6.

    It is taken where `pir export MODEL MODEL` has put it beside the weights, else where `pir index` keeps it.

    Raises:
        ValueError: it was exported from other weights, or is damaged.
    """
    if not runs_on_onnx(network):
        return None
    weights, program = weights_fingerprint(network), folder / VISION_PROGRAM
    if not program.is_file():
        program = image_program(weights)
    return open_image_program(program, weights) if program.is_file() else None


def open_image_program(program: Path, weights: str) -> InferenceSession:
    """An exported image side, ready to run.

    Args:
        program: the file.
        weights: fingerprint of the model that it is to stand for.

    Raises:
        ValueError: it was exported from other weights, or is damaged.
    """
    from onnxruntime import InferenceSession

    try:
        session = InferenceSession(str(program), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises types of its own
        raise ValueError(f"{program} is damaged ({' '.join(str(error).split())}): remove it.") from error
    if session.get_modelmeta().custom_metadata_map.get("weights") != weights:
        raise ValueError(f"{program} was exported from other weights than the model has: run pir export again.")
    return session


def _load_dual_encoder(model: str, revision: str | None, device: str | torch.device) -> DualEncoder:
    """A model of transformers with its processor."""
    try:
        # Saved in half precision, it would compute in it, and say float32: a caller who wants less says so.
        options = {"trust_remote_code": False, "dtype": torch.float32, "output_loading_info": True}
        network, report = AutoModel.from_pretrained(model, revision=revision, **options)
    except ImportError:
        raise
    except Exception as error:  # a damaged configuration makes transformers fail with almost any type
        raise ValueError(f"{model} cannot be loaded: {' '.join(str(error).split())}") from error
    check_weights(network, report | {"unexpected_keys": _unexpected_keys(network, report["unexpected_keys"])}, model)
    for side in ("image", "text"):
        if not hasattr(network, f"get_{side}_features"):
            raise ValueError(
                f"{model!r} is a {type(network).__name__}, which has no {side} side: retrieval needs a model that "
                "embeds both images and texts, such as CLIP, SigLIP or PIR."
            )
    try:
        # Such models were trained on images that PIL resized; torchvision's resizing is off by up to one grey level.
        processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=False, backend="pil")
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"The processor of {model!r} cannot be loaded: {' '.join(str(error).split())}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"{model!r} comes with a {type(processor).__name__} alone: save its image processor and its tokenizer, "
            "as one processor, beside the weights."
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:  # any token does, since it is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return DualEncoder(network.to(device).eval(), processor, model, revision)


def _unexpected_keys(network: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Keys of a checkpoint that say it is of another model.

    Not among them are the counted positions that older versions of transformers saved, and what a checkpoint of another
    class (`OwlViTForObjectDetection`, of which an `OwlViTModel` is loaded) has beside the model's own modules.
    """
    keys = [key for key in keys if not key.endswith("position_ids")]
    if type(network).__name__ in (network.config.architectures or [type(network).__name__]):
        return keys
    own = {name for name, _ in network.named_children()}
    return [key for key in keys if key.split(".")[0] in own]


def _has_file(model: str, name: str, revision: str | None) -> bool:
    if Path(model).is_dir():
        return (Path(model) / name).is_file()
    causes = ("missing_entries", "gated_repo", "connection_errors")
    flags = {f"_raise_exceptions_for_{cause}": False for cause in causes}
    return cached_file(model, name, revision=revision, **flags) is not None


def _load_sentence_encoder(model: str, revision: str | None, device: str | torch.device) -> SentenceEncoder:
    """A model of sentence-transformers."""
    library = need("sentence_transformers", "eval", f"{model!r} needs")
    network = library.SentenceTransformer(model, revision=revision, device=str(device), trust_remote_code=False)
    for side in ("image", "text"):
        if not network.supports(side):
            raise ValueError(
                f"{model!r} embeds {', '.join(map(str, network.modalities))} only and has no {side} side: retrieval "
                "needs a model that embeds both images and texts, such as clip-ViT-B-32."
            )
    return SentenceEncoder(network.eval(), None, model, revision)


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
    for name, module in model.named_modules():  # RoBERTa and its kin count positions from behind that of the padding
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
    return {"padding": padding, "truncation": True, "max_length": min(limits)}


def pooled(features: torch.Tensor | BaseModelOutputWithPooling) -> torch.Tensor:
    """The projected features (batch, dim); models outside of transformers 5 hand on the tensor itself."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output
