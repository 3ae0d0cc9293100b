"""Doubts about a sentence: words that the model does not know, and words that are cut off."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ...inference.onnx_text import Reading

SHATTERED = 1.75  # letters a piece, below which a word has fallen into letters rather than parts of words;
SHATTERED_AT_MOST = 2.6  # more where the tokenizer leaves usual words whole, see `shattered_below`
MIN_LETTERS = 4  # of a word that is judged by its pieces: short ones are whole in any vocabulary
MAX_UNKNOWN = 0.5  # share of the letters, from which on a sentence is in doubt
FUNCTION_WORDS = frozenset("a an the of and or to in on at by with for from is are be it this that there".split())


def words_of(text: str) -> list[str]:
    """Words of letters, and every other run of signs."""
    return re.findall(r"[^\W\d_]+|[^\s]", text)


def pieces(word: str, tokenizer: Tokenizer) -> list[str]:
    """The tokens of a word, without those that begin and end a text."""
    return tokenizer.encode(word, add_special_tokens=False).tokens


@lru_cache(maxsize=8)  # a server asks for each question
def shattered_below(bank: tuple[str, ...], tokenizer: Tokenizer) -> float:
    """Letters a piece, below which a word is in doubt, for a tokenizer: small vocabularies cut usual words, too.

    Args:
        bank: usual sentences.
        tokenizer: of the model.
    """
    words = {word for sentence in bank for word in words_of(sentence) if len(word) >= MIN_LETTERS}
    ratios = [len(word) / max(1, len(pieces(word, tokenizer))) for word in words]
    return float(np.clip(np.quantile(ratios, 0.02), SHATTERED, SHATTERED_AT_MOST)) if ratios else SHATTERED


def is_unknown(word: str, tokenizer: Tokenizer, unknown_piece: str | None, threshold: float) -> bool:
    """Whether a tokenizer has no pieces for a word: an unknown one, letters, or bytes of letters."""
    found = pieces(word, tokenizer)
    if not found or unknown_piece in found or len(found) > len(word):
        return True
    if any("CJK" in unicodedata.name(letter, "") for letter in word):
        return False
    are_letters = len(found) == len(word) >= MIN_LETTERS - 1
    return are_letters or (len(word) >= MIN_LETTERS and len(word) / len(found) < threshold)


def doubts_about(text: str, reading: Reading, threshold: float = SHATTERED) -> list[str]:
    """What is doubtful about a sentence, before anything is searched.

    Args:
        text: of a question.
        reading: of the model.
        threshold: see [`shattered_below`].

    Returns:
        Sentences for the user; none if there is no doubt.
    """
    tokenizer = reading.tokenizer
    try:
        prepared = reading.prepare(text)
    except ValueError:  # nothing is left after cleaning
        prepared = ""
    words = words_of(prepared)
    contents = [word for word in words if word[0].isalpha() and word.lower() not in FUNCTION_WORDS]
    contents += [word for word in words if unicodedata.category(word[0]) in ("So", "Sk")]  # emoji
    unknown = [word for word in contents if is_unknown(word, tokenizer, reading.unknown_piece, threshold)]
    found = []
    if not contents:
        found.append(f"{text!r} names nothing that could be seen: the hits mean little.")
    elif sum(map(len, unknown)) >= MAX_UNKNOWN * sum(map(len, contents)):
        named = ", ".join(dict.fromkeys(unknown))
        found.append(f"The model does not know {named}: the hits mean little; try other words, in English.")
    num_tokens = len(tokenizer.encode(prepared).ids)
    is_cut = num_tokens > reading.max_tokens or len(prepared.split()) < len(text.split()) and reading.clean_captions
    if is_cut:
        found.append(f"The sentence is longer than the model reads, {reading.max_tokens} tokens: its end is cut off.")
    return found
