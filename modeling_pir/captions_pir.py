# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Cleaning of captions, in a file that imports neither torch nor transformers."""

import re

_DROPPED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
MAX_WORDS = 30  # of a caption that are kept
_WHITESPACE_RUN = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int = MAX_WORDS) -> str:
    """Clean a caption by the official rules (`pre_caption`).

    Lower case; the characters , . ' ! ? " ( ) * # : ; ~ deleted; hyphen and slash to a space; "<person>" to "person";
    runs of white space to one space; the first `max_words` words kept.

    Args:
        text: a caption.
        max_words: words kept, counted after cleaning.

    Returns:
        The cleaned caption, at least one character.

    Raises:
        ValueError: nothing is left of the caption.
    """
    cleaned = text.lower().translate(_DROPPED).replace("<person>", "person")
    cleaned = _WHITESPACE_RUN.sub(" ", cleaned).rstrip("\n").strip(" ")
    cleaned = " ".join(cleaned.split(" ")[:max_words])
    if not cleaned:
        raise ValueError(f"Nothing is left of the caption {text!r} after cleaning: leave it out of the data.")
    return cleaned


__all__ = ["MAX_WORDS", "clean_caption"]
