# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""PIRProcessor: images and captions to pixel_values, input_ids and attention_mask."""

import copy
import os
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, normalizers
from transformers import BaseImageProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ViTImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ImageInput, PILImageResampling
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.tokenization_utils_base import BatchEncoding

from .captions_pir import MAX_WORDS, clean_caption
from .images_pir import array_to_rgb, open_image

# `clean_caption` as steps of a tokenizer, in patterns that transformers.js reads, too
CLEANING = [
    normalizers.Lowercase(),
    normalizers.Replace(Regex(r"""[,.'!?"()*#:;~]"""), ""),
    normalizers.Replace(Regex(r"[-/]"), " "),
    normalizers.Replace("<person>", "person"),
    normalizers.Replace(Regex(r"\s{2,}"), " "),
    normalizers.Replace(Regex(r"^ +|[ \n]+$"), ""),
    normalizers.Replace(Regex(rf"(?<=^(?:[^ ]+ ){{{MAX_WORDS - 1}}}[^ ]+) [\s\S]*"), ""),
]


def with_cleaning(tokenizer: PreTrainedTokenizerBase, cleaning: bool) -> PreTrainedTokenizerBase:
    """A tokenizer whose normaliser cleans captions first, or one whose normaliser does not.

    Whoever calls it gets the same ids: the processor, a pipeline, sentence-transformers, the exported encoders.

    Args:
        tokenizer: a tokenizer of transformers; it stays as it is.
        cleaning: whether texts are to be cleaned, as [`clean_caption`] does.

    Returns:
        The tokenizer itself where that is what it does already, else a copy.

    Raises:
        ValueError: a tokenizer that is not of the library `tokenizers` and cannot clean.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if cleaning:
            raise ValueError(
                f"caption_cleaning needs a tokenizer of the library tokenizers, not {type(tokenizer).__name__}: take "
                "the fast one, or caption_cleaning=False."
            )
        return tokenizer
    given = backend.normalizer
    steps = [] if given is None else list(given) if isinstance(given, normalizers.Sequence) else [given]
    cleans = repr(steps[: len(CLEANING)]) == repr(CLEANING)
    if cleans == cleaning:
        return tokenizer
    steps = [*CLEANING, *steps] if cleaning else steps[len(CLEANING) :]
    backend = copy.deepcopy(backend)
    backend.normalizer = normalizers.Sequence(steps)
    # The general class: those of one family (BertTokenizer) load a normaliser of their own, whatever was saved.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        split_special_tokens=cleaning,  # "[SEP]" in a caption is three marks and a word, as for `clean_caption`
        **tokenizer.special_tokens_map,
    )


class PIRTextKwargs(TextKwargs, total=False):
    """Text options of [`PIRProcessor`] beside the tokenizer's.

    Attributes:
        clean_captions: clean every text as [`clean_caption`] does; None takes the processor's `caption_cleaning`.
    """

    clean_captions: bool | None


class PIRProcessorKwargs(ProcessingKwargs, total=False):
    """Typed options of [`PIRProcessor`]."""

    text_kwargs: PIRTextKwargs


class PIRProcessor(ProcessorMixin):
    """An image processor and a tokenizer in one object.

    The official settings are a ViTImageProcessor that resizes to a square of 224 pixels (bicubic) with CLIP's mean and
    standard deviation, and an uncased BertTokenizer. Texts are truncated to 47 tokens and padded to the longest.

    Args:
        image_processor: an image processor of transformers.
        tokenizer: a tokenizer of transformers.
        caption_cleaning: whether texts are cleaned as by [`clean_caption`]; a call can override it with
            `clean_captions=`. The cleaning is part of the tokenizer's normaliser, so it also applies where the
            tokenizer is used or saved on its own. Checkpoints converted from the official code set it, since they were
            trained on cleaned captions.

    Raises:
        ValueError: `caption_cleaning` with a tokenizer that is not of the library tokenizers.

    Example:
    ```python
    >>> from modeling_pir import PIRProcessor

    >>> processor = PIRProcessor.from_pretrained("hub_configs/pir-small-rsicd")
    >>> inputs = processor(images=image, text=["planes at an airport"], return_tensors="pt")  # a PIL image or a path
    >>> inputs["pixel_values"].shape
    torch.Size([1, 3, 224, 224])
    ```
    """

    valid_processor_kwargs = PIRProcessorKwargs
    text_kwargs = {"padding": True, "truncation": True, "max_length": 47}

    def __init__(
        self,
        image_processor: object | None = None,
        tokenizer: object | None = None,
        caption_cleaning: bool = False,
        **kwargs: object,
    ) -> None:
        self.caption_cleaning = caption_cleaning
        tokenizer = tokenizer if tokenizer is None else with_cleaning(tokenizer, caption_cleaning)
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        **kwargs: Unpack[PIRProcessorKwargs],
    ) -> BatchEncoding:
        """Prepare images, texts or both for [`PIRModel`].

        Args:
            images: one image or a list: a path or PIL image, opened as [`open_image`] does (upright, 16 bits
                stretched, transparency over black); a numpy array or tensor as [`array_to_rgb`] reads it, unless
                `do_rescale=False` or `input_data_format` says how transformers is to; an address as transformers does.
            text: one caption or a list.
            kwargs: options of the image processor and the tokenizer, `clean_captions` and `return_tensors`.

        Returns:
            `pixel_values` (images, 3, height, width); `input_ids` and `attention_mask` (texts, length).

        Raises:
            ValueError: neither images nor text, a text without any word, or a file that cannot be opened.
        """
        text_kwargs = dict(kwargs.pop("text_kwargs", {}))
        clean = kwargs.pop("clean_captions", text_kwargs.pop("clean_captions", None))
        if text_kwargs:
            kwargs["text_kwargs"] = text_kwargs
        if clean is not None and clean != self.caption_cleaning:
            return type(self)(self.image_processor, self.tokenizer, clean)(images=images, text=text, **kwargs)
        for caption in [text] if isinstance(text, str) else text or []:
            if isinstance(caption, str):
                _check_text(caption)
            if isinstance(caption, str) and self.caption_cleaning:
                clean_caption(caption)  # raises where nothing would be left; the cleaning is the tokenizer's
        image_kwargs = kwargs | kwargs.get("images_kwargs", {})
        is_said = image_kwargs.get("do_rescale") is False or image_kwargs.get("input_data_format") is not None
        return super().__call__(images=None if images is None else _opened(images, not is_said), text=text, **kwargs)


def _check_text(text: str) -> None:
    """Refuse what no tokenizer reads: nothing that can be seen, and halves of characters."""
    if all(unicodedata.category(character)[0] in "ZC" for character in text):
        raise ValueError(f"A text is empty ({ascii(text)}): give a sentence with at least one word.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"A text is not Unicode ({ascii(text)}): it was read in the wrong encoding; give it in UTF-8.")


def _opened(images: ImageInput | Path | list[Path], read_arrays: bool = True) -> ImageInput:
    """Images with every file and PIL image opened as [`open_image`] does, and arrays of other kinds as 8-bit RGB."""
    if isinstance(images, list | tuple):
        return [_opened(image, read_arrays) for image in images]
    if isinstance(images, torch.Tensor | np.ndarray):
        if not read_arrays or (images.dtype in (torch.uint8, np.uint8) and images.ndim == 3 and _is_rgb(images.shape)):
            return images  # as transformers reads them
        if images.ndim == 4:
            return [_opened(image) for image in images]
        if isinstance(images, torch.Tensor):
            images = (images.float() if images.is_floating_point() else images).detach().cpu().numpy()
        return array_to_rgb(images)
    is_file = isinstance(images, Path) or (isinstance(images, str) and os.path.isfile(images))
    return open_image(images) if is_file or isinstance(images, Image.Image) else images


def _is_rgb(shape: tuple[int, ...]) -> bool:
    """Whether three colours come last or first, where four or one cannot be meant."""
    return 3 in (shape[0], shape[-1]) and not {1, 4} & {shape[0], shape[-1]}


__all__ = ["PIRProcessor", "clean_caption"]


def build_image_processor(
    image_size: int,
    mean: tuple[float, ...] | list[float] = OPENAI_CLIP_MEAN,
    std: tuple[float, ...] | list[float] = OPENAI_CLIP_STD,
) -> ViTImageProcessor:
    """The official image settings: resized to a square, bicubic, CLIP's mean and standard deviation.

    Args:
        image_size: side of the square, pixels.
        mean: of red, green and blue, in [0, 1], for a tower that wants another.
        std: their standard deviation.
    """
    return ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=PILImageResampling.BICUBIC,
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=True,
    )


def image_size(image_processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of what an image processor gives, pixels.

    Raises:
        ValueError: it gives images of any size, which no exported program and no batch takes.
    """
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    height, width = (size[side] if side in size else None for side in ("height", "width"))
    if not height or not width:
        raise ValueError(
            f"The image processor gives images of any size ({size}): let it resize to a height and a width, or crop "
            "(do_center_crop)."
        )
    return height, width
