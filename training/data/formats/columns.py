"""Names of the columns in tables of captions, and the meaning of their cells."""

import ast
import json
import math
import re
from collections.abc import Iterable

NAMES = ("file_name", "filename", "file", "path", "filepath", "file_path", "image", "image_path", "image_name", "img")
CAPTIONS = ("captions", "caption", "text", "txt", "sentence", "sentences", "description", "comment", "raw", "title")
SCENES = ("scene", "scene_name", "class", "category", "label")
SPLITS = ("split", "subset", "partition")
NO_TEXT = ("nan", "null", "none", "n/a", "#n/a", "<na>")  # what programs write into an empty cell
NUMBERED_CAPTIONS = re.compile(r"(caption|sentence|text|description)[_.]?(\d+|\(\d+\))")  # pandas writes caption.1
CAPTIONS_OF_LANGUAGE = re.compile(r"(captions?|sentences?|text|description)_[a-z]{2}")


def plain_name(column: object) -> str:
    """A column's name as it is looked up: lower case, without spaces around and "_" for those within."""
    return re.sub(r"[\s-]+", "_", str(column).strip().lower())


def find_column(columns: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted names, in their order, that a table has; the table's own spelling."""
    own = {plain_name(column): column for column in columns}
    return next((own[name] for name in wanted if name in own), None)


def caption_columns(columns: Iterable[str]) -> list[str]:
    """The columns that hold captions: one, or all of `caption_1`, `caption_2` ... in a wide table.

    A single column of a language, such as `captions_en`, is one, too; of several nobody can tell which is meant.
    """
    columns = list(columns)
    one = find_column(columns, CAPTIONS)
    numbered = {column: NUMBERED_CAPTIONS.fullmatch(plain_name(column)) for column in columns}
    if one:  # caption, caption_1 ... are one family
        return [one, *(column for column, found in numbered.items() if found and found[1] == plain_name(one))]
    of_language = [column for column in columns if CAPTIONS_OF_LANGUAGE.fullmatch(plain_name(column))]
    return [column for column, found in numbered.items() if found] or (of_language if len(of_language) == 1 else [])


def is_empty(value: object) -> bool:
    """Whether a cell says nothing: None, not a number, or no characters."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def captions_of(value: object) -> list[str]:
    """The captions in a cell: one sentence, a list of them, or a list that was written as text.

    Raises:
        ValueError: something else, or a list that cannot be read.
    """
    if is_empty(value) or (isinstance(value, str) and value.strip().lower() in NO_TEXT):
        return []
    if isinstance(value, dict):  # Karpathy's sentences
        inner = find_column(value, ("raw", "caption", "sentence", "text"))
        if inner is None:
            raise ValueError(f"a caption that is the object {value!r}: write a sentence, or one with a field raw")
        return captions_of(value[inner])
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [text for one in value for text in ([one] if one is None or isinstance(one, str) else captions_of(one))]
    text = str(value)
    return _listed(text.strip()) if text.strip().startswith(("[", "(")) and text.strip()[-1] in "])" else [text]


def _listed(text: str) -> list[str]:
    """The captions of a list that was written into a cell, as JSON or as Python prints it; else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            if re.search(r"""['"]\s+['"]""", text):  # numpy prints no commas, and Python joins such texts
                break
            return list(value)
    if re.match(r"""[\[(]\s*['"]""", text):
        raise ValueError(f"{text[:60]!r} is a list that cannot be read: write it as JSON, or one caption a line")
    return [text]  # a sentence in brackets


def label_of(value: object) -> str | None:
    """A scene's or a split's name from a cell: numbers as their digits, nothing for an empty one."""
    if is_empty(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return (text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text) or None  # pandas writes 1.0 where a cell is empty
