"""A bank of common sentences, the reference for the hubness of rows and for doubts about queries."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...inference.encoder import Encoder

BANK_NAME = "scenes-1"  # of the sentences in bank.txt; another list gets another name


@cache
def bank_sentences() -> tuple[str, ...]:
    """360 sentences on what overhead images show, written for this package."""
    text = files(__package__).joinpath("bank.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


_embedded: dict[str, np.ndarray] = {}  # by the weights' fingerprint: a process embeds the bank once


def bank_embeds(encoder: Encoder, weights: str) -> np.ndarray:
    """The bank as vectors.

    Args:
        encoder: any.
        weights: fingerprint of its weights.

    Returns:
        (sentences, dim) float32, unit norm.
    """
    if weights not in _embedded:
        _embedded[weights] = encoder.embed_texts(list(bank_sentences())).numpy()
    return _embedded[weights]
