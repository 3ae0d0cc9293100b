"""Evaluate retrieval on a split: embed it once, measure recall both ways."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.embed import embed_images, embed_texts
from modeling_pir.images import open_image
from training.data import image_bytes_or_path
from training.metrics import recall_metrics, retrieval_metrics, streamed_retrieval_ranks

MAX_MATRIX = 64_000_000  # entries of a similarity matrix that is held whole; above it, blocks


@dataclass
class SplitEmbeddings:
    """A split as unit vectors.

    Attributes:
        image_embeds: (images, dim) float32 on the CPU.
        text_embeds: (texts, dim) float32 on the CPU; equal captions have equal rows.
        text_to_image: (texts,) long, the row of the image each text describes.
        texts: the captions, in the order of the images.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    text_to_image: torch.Tensor
    texts: list[str]


def decoded_images(rows: Dataset) -> Iterator[Image.Image]:
    """The images of the rows, one after the other, as RGB."""
    for row in rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False)):
        yield open_image(image_bytes_or_path(row["image"]), row["filename"])


def embed_split(
    model: PIRModel,
    processor: PIRProcessor,
    rows: Dataset,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> SplitEmbeddings:
    """Embed every image and every distinct caption of a split once.

    Args:
        model: in any mode; it is left in the mode it came in.
        processor: its processor.
        rows: of `load_image_captions`.
        batch_size: images or texts encoded at once.
        dtype: precision to compute in, None for the weights' own.
        progress: show bars.

    Returns:
        The embeddings.
    """
    was_training = model.training
    model.eval()
    texts = [caption for captions in rows["captions"] for caption in captions]
    counts = torch.tensor([len(captions) for captions in rows["captions"]])
    image_embeds = embed_images(
        model, processor, decoded_images(rows), batch_size, dtype, "images" if progress else None
    )
    text_embeds = embed_texts(model, processor, texts, batch_size, dtype, "texts" if progress else None)
    model.train(was_training)
    return SplitEmbeddings(image_embeds, text_embeds, torch.arange(len(counts)).repeat_interleave(counts), texts)


def embeddings_metrics(embeddings: SplitEmbeddings) -> dict[str, float]:
    """`retrieval_metrics` of a split, in blocks where the whole matrix would be large."""
    images, texts = embeddings.image_embeds, embeddings.text_embeds
    if len(images) * len(texts) <= MAX_MATRIX:
        return retrieval_metrics(images @ texts.T, embeddings.text_to_image)
    return recall_metrics(*streamed_retrieval_ranks(images, texts, embeddings.text_to_image))


def evaluate_split(model: PIRModel, processor: PIRProcessor, rows: Dataset, batch_size: int) -> dict[str, float]:
    """Retrieval metrics of a split, percent (see `retrieval_metrics`)."""
    return embeddings_metrics(embed_split(model, processor, rows, batch_size))
