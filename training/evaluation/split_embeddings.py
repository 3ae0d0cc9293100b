"""Embed a split to unit vectors and compute its retrieval metrics."""

from dataclasses import dataclass, replace
from time import perf_counter

import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL.Image import Image, Transpose

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.inference.encoder import Encoder, PIREncoder
from training.data.rows import decoded_images
from training.evaluation.metrics import recall_metrics, streamed_retrieval_ranks


@dataclass
class SplitEmbeddings:
    """A split as unit vectors.

    Attributes:
        image_embeds: (images, dim) float32 on the CPU.
        text_embeds: (texts, dim) float32 on the CPU; equal captions have equal rows.
        text_to_image: (texts,) long, the row of the image each text describes.
        texts: the captions, in the order of the images.
        seconds: encoding took, `images` and `texts`.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    text_to_image: torch.Tensor
    texts: list[str]
    seconds: dict[str, float]


def embed_split(
    model: PIRModel,
    processor: PIRProcessor,
    rows: Dataset,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    images: list[Image] | None = None,
) -> SplitEmbeddings:
    """Embed every image and every distinct caption of a split once.

    Args:
        model: in any mode; it is left in the mode it came in.
        processor: its processor.
        rows: of `load_image_captions`.
        batch_size: images or texts encoded at once.
        dtype: precision to compute in, None for the weights' own.
        progress: show bars.
        images: of the rows, where they are decoded already.

    Returns:
        The embeddings.
    """
    was_training = model.training
    model.eval()
    embeddings = embed_rows(PIREncoder(model, processor), rows, batch_size, dtype, progress, images)
    model.train(was_training)
    return embeddings


def embed_rows(
    encoder: Encoder,
    rows: Dataset,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    images: list[Image] | None = None,
) -> SplitEmbeddings:
    """[`embed_split`] for any encoder.

    Args:
        encoder: of `load_encoder`.
        rows: of `load_image_captions`.
        batch_size: images or texts encoded at once.
        dtype: precision to compute in, None for the weights' own.
        progress: show bars.
        images: of the rows, where they are decoded already.

    Returns:
        The embeddings.

    Raises:
        ValueError: embeddings with NaN, or image and text vectors of different widths.
    """
    texts = [caption for captions in rows["captions"] for caption in captions]
    counts = torch.tensor([len(captions) for captions in rows["captions"]])
    start = perf_counter()
    shown = decoded_images(rows) if images is None else images
    image_embeds = encoder.embed_images(shown, batch_size, dtype, "images" if progress else None)
    middle = perf_counter()
    text_embeds = encoder.embed_texts(texts, batch_size, dtype, "texts" if progress else None)
    seconds = {"images": middle - start, "texts": perf_counter() - middle}
    if image_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(
            f"The model gives {image_embeds.shape[1]} numbers for an image and {text_embeds.shape[1]} for a text: they "
            "cannot be compared; use a model with one space for both."
        )
    for side, embeds in (("image", image_embeds), ("text", text_embeds)):
        if embeds.isnan().any():
            raise ValueError(
                f"{int(embeds.isnan().any(dim=1).sum())} of {len(embeds)} {side} embeddings have NaN: the weights are "
                "broken, or the precision is too low for them (try --dtype float32)."
            )
    return SplitEmbeddings(
        image_embeds, text_embeds, torch.arange(len(counts)).repeat_interleave(counts), texts, seconds
    )


def turned_embeddings(
    encoder: Encoder,
    rows: Dataset,
    embeddings: SplitEmbeddings,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> SplitEmbeddings:
    """Average the embeddings of an image over its four quarter turns: seen from above, no side is up.

    Args:
        encoder: that made the embeddings.
        rows: of the split.
        embeddings: of the split, as its images lie.
        batch_size: images encoded at once.
        dtype: precision to compute in, None for the weights' own.
        progress: show bars.

    Returns:
        The means, of unit norm again; the texts as they were.
    """
    total = embeddings.image_embeds
    for turn in (Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270):
        images = (image.transpose(turn) for image in decoded_images(rows))
        total = total + encoder.embed_images(images, batch_size, dtype, turn.name.lower() if progress else None)
    return replace(embeddings, image_embeds=F.normalize(total, dim=1))


def embeddings_metrics(embeddings: SplitEmbeddings) -> dict[str, float]:
    """`retrieval_metrics` of a split, in blocks; candidates within rounding of the right one count as ties."""
    ranks = streamed_retrieval_ranks(embeddings.image_embeds, embeddings.text_embeds, embeddings.text_to_image)
    return recall_metrics(*ranks)


def evaluate_split(
    model: PIRModel,
    processor: PIRProcessor,
    rows: Dataset,
    batch_size: int,
    dtype: torch.dtype | None = None,
    images: list[Image] | None = None,
) -> dict[str, float]:
    """Retrieval metrics of a split, percent (see `retrieval_metrics`); for the arguments see [`embed_split`]."""
    return embeddings_metrics(embed_split(model, processor, rows, batch_size, dtype, images=images))
