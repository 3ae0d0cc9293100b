"""Embed images and captions to unit vectors in batches, for the evaluation, the index and the commands."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Cut an iterable into lists of `size`, the last one shorter.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"The batch size is {size}, but it has to be at least 1.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def autocast(model: torch.nn.Module, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision on the model's device; None leaves the weights' own precision."""
    return torch.autocast(model.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@torch.inference_mode()
def embed_in_batches(
    encode: Callable[[list], torch.Tensor],
    model: torch.nn.Module,
    items: Iterable,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> torch.Tensor | None:
    """Encode items batch by batch.

    Args:
        encode: a list of items to (items, dim).
        model: that `encode` runs, in evaluation mode.
        items: read one batch at a time.
        batch_size: items encoded at once.
        dtype: such as torch.bfloat16, the precision to compute in; None for the weights' own.
        progress: title of a progress bar; None for none.

    Returns:
        (items, dim) float32 on the CPU, unit norm; None without items.
    """
    rows = []
    total = len(items) if isinstance(items, Sized) else None
    with tqdm(total=total, desc=progress, disable=progress is None) as bar, autocast(model, dtype):
        for batch in batched(items, batch_size):
            rows.append(F.normalize(encode(batch).float(), dim=-1).cpu())
            bar.update(len(batch))
    return torch.cat(rows) if rows else None


def embed_distinct(
    encode: Callable[[list[str]], torch.Tensor],
    model: torch.nn.Module,
    texts: list[str],
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> torch.Tensor | None:
    """Encode each distinct text once, in batches of like length; arguments and result as [`embed_in_batches`]."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = embed_in_batches(encode, model, distinct, batch_size, dtype, progress)
    return None if rows is None else rows[[row_of[text] for text in texts]]


def encode_images(model: PIRModel, processor: PIRProcessor, images: list[Image.Image]) -> torch.Tensor:
    """PIR's features of RGB images, (images, projection_dim)."""
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    return model.get_image_features(pixel_values).pooler_output


def encode_texts(model: PIRModel, processor: PIRProcessor, texts: list[str]) -> torch.Tensor:
    """PIR's features of texts, (texts, projection_dim)."""
    return model.get_text_features(**processor(text=texts, return_tensors="pt").to(model.device)).pooler_output


def embed_images(
    model: PIRModel,
    processor: PIRProcessor,
    images: Iterable[Image.Image],
    batch_size: int = 64,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Embed images with PIR; see [`embed_in_batches`].

    Args:
        model: set to evaluation mode by the caller (`from_pretrained` does).
        processor: its processor.
        images: RGB images (see `images.open_image`), read one batch at a time.
        batch_size: images encoded at once.
        dtype: precision to compute in; None for the weights' own.
        progress: title of a progress bar; None for none.

    Returns:
        (images, projection_dim) float32 on the CPU, unit norm.
    """
    rows = embed_in_batches(partial(encode_images, model, processor), model, images, batch_size, dtype, progress)
    return torch.empty(0, model.config.projection_dim) if rows is None else rows


def embed_texts(
    model: PIRModel,
    processor: PIRProcessor,
    texts: list[str],
    batch_size: int = 128,
    dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Embed texts with PIR; equal texts are encoded once, and batches are made of texts of like length.

    With `mask_padding=False` (official mode) an embedding depends on the padding of its batch, and so on this order.

    Args:
        model: set to evaluation mode by the caller.
        processor: its processor.
        texts: sentences.
        batch_size: texts encoded at once.
        dtype: see [`embed_images`].
        progress: title of a progress bar; None for none.

    Returns:
        (texts, projection_dim) float32 on the CPU, unit norm.
    """
    rows = embed_distinct(partial(encode_texts, model, processor), model, texts, batch_size, dtype, progress)
    return torch.empty(0, model.config.projection_dim) if rows is None else rows
