# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""PIRProcessor: images and captions in, pixel_values, input_ids and attention_mask out."""

from transformers import ViTImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ImageInput, PILImageResampling
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.tokenization_utils_base import BatchEncoding

from .captions_pir import clean_caption


class PIRTextKwargs(TextKwargs, total=False):
    """Text options of [`PIRProcessor`] beside the tokenizer's.

    Attributes:
        clean_captions: clean every text by [`clean_caption`] first; None takes the processor's `caption_cleaning`.
    """

    clean_captions: bool | None


class PIRProcessorKwargs(ProcessingKwargs, total=False):
    """Typed options of [`PIRProcessor`]."""

    text_kwargs: PIRTextKwargs


class PIRProcessor(ProcessorMixin):
    """An image processor and a tokenizer in one object.

    The official settings are a ViTImageProcessor at 224 pixels (aspect not kept), bicubic, with CLIP's mean and
    standard deviation, and an uncased BertTokenizer; texts are cut at 47 tokens and padded to the longest.

    Args:
        image_processor: an image processor of transformers.
        tokenizer: a tokenizer of transformers.
        caption_cleaning: whether texts are cleaned by [`clean_caption`] unless a call says otherwise with
            `clean_captions=`. Checkpoints converted from the official code set it, their texts were cleaned.
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
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        **kwargs: Unpack[PIRProcessorKwargs],
    ) -> BatchEncoding:
        """Prepare images, texts or both for [`PIRModel`].

        Args:
            images: one image or a list (PIL, numpy, torch; a path or an address).
            text: one caption or a list.
            kwargs: options of the image processor and the tokenizer, `clean_captions` and `return_tensors`.

        Returns:
            `pixel_values` (images, 3, height, width), `input_ids` and `attention_mask` (texts, length); what was given.

        Raises:
            ValueError: neither images nor text, or a text without any word.
        """
        text_kwargs = dict(kwargs.pop("text_kwargs", {}))
        clean = kwargs.pop("clean_captions", text_kwargs.pop("clean_captions", None))
        if text is not None and (self.caption_cleaning if clean is None else clean):
            text = clean_caption(text) if isinstance(text, str) else [clean_caption(caption) for caption in text]
        for caption in [text] if isinstance(text, str) else text or []:
            if isinstance(caption, str) and not caption.strip():
                raise ValueError(f"A text is empty ({caption!r}): give a sentence with at least one word.")
        if text_kwargs:
            kwargs["text_kwargs"] = text_kwargs
        return super().__call__(images=images, text=text, **kwargs)


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
