"""What a `metadata.jsonl` says of files, as in an imagefolder data set: one JSON object with `file_name` per line."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..stores.columns import COLUMNS, Row
from .dates import iso_date

LABELS_FILE = "metadata.jsonl"
LABELS = ("scene", "date", "sensor")  # that have a column in any index
logger = logging.getLogger(__name__)
Labels = dict[str, dict]  # by absolute path: columns and their values, and all of them as JSON under `labels`
Errors = list[tuple[str, str]]  # (path, sentence)


def read_labels(path: str | Path) -> tuple[Labels, Errors]:
    """Read a label file.

    Args:
        path: of the file; `file_name` is relative to its folder. UTF-8, UTF-16 or, as older editors write it,
            Windows-1252.

    Returns:
        Labels by absolute path, and what is wrong with which line. Dates are ISO; other keys than `LABELS` become
        columns of that name in small letters, numbers as numbers, lists and objects as JSON.
    """
    labels: Labels = {}
    errors: Errors = []
    folder = os.path.dirname(os.path.abspath(path))
    try:
        text = _decode(Path(path).read_bytes(), path)
    except OSError as error:
        return {}, [(str(path), f"{path} cannot be read ({error.strerror}): allow it, remove it or replace it.")]
    for number, line in enumerate(text.split("\n"), start=1):  # other line separators may be part of a text
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError(f"it is {type(entry).__name__}")
        except (ValueError, RecursionError) as error:
            errors.append((str(path), f"Line {number} of {path} is no JSON object ({error}): mend it or remove it."))
            continue
        if not isinstance(entry.get("file_name"), str):
            continue
        try:
            values = dict(_columns(entry))
        except ValueError as error:
            errors.append((str(path), f"Line {number} of {path}: {error}"))
            values = dict(_columns({key: value for key, value in entry.items() if key.lower() != "date"}))
        place = os.path.normpath(os.path.join(folder, entry["file_name"]))
        labels[place] = values | {"labels": json.dumps(values, sort_keys=True)}
    return labels, errors


def _decode(content: bytes, path: str | Path) -> str:
    """The text of a file whose encoding is told by its mark, or is UTF-8, or else what Windows uses in the west."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        logger.warning("%s is not UTF-8: it is read as Windows-1252.", path)
        return content.decode("cp1252", errors="replace")


def _columns(entry: Mapping[str, object]) -> Iterator[tuple[str, str | float]]:
    """Columns and values of a line."""
    for key, value in entry.items():
        name = re.sub(r"\W", "_", key.lower(), flags=re.ASCII)
        if key == "file_name" or value is None or not name.strip("_"):
            continue
        if name == "date":
            yield name, iso_date(value if isinstance(value, str) else json.dumps(value))
        elif name in LABELS:
            if isinstance(value, str | int | float):
                yield name, str(value)
        else:
            name = f"label_{name}" if name in COLUMNS or name in ("row", "code", "embedding") else name
            name = f"_{name}" if name[0].isdigit() else name
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            yield name, float(value) if is_number else value if isinstance(value, str) else json.dumps(value)


def labels_above(source: str, root: str | None) -> tuple[Labels, Errors]:
    """What label files above a source say, up to the root of the archive: of a single file, those of its folder.

    Args:
        source: absolute path of a folder or a file.
        root: of the archive, if it has one.
    """
    labels: Labels = {}
    errors: Errors = []
    folder = os.path.dirname(source)
    is_below = root is not None and source.startswith(os.path.join(root, ""))
    while is_below or os.path.isfile(source):
        path = os.path.join(folder, LABELS_FILE)
        if os.path.isfile(path):
            found, wrong = read_labels(path)
            labels, errors = found | labels, errors + wrong
        if not is_below or folder == root:
            break
        folder = os.path.dirname(folder)
    return labels, errors


def fit_labels(labels: Labels, columns: Mapping[str, type]) -> Errors:
    """Make values fit the columns that are there, or those of the first file where there are none yet.

    Args:
        labels: changed in place.
        columns: of the index.

    Returns:
        Which files have a value that does not fit; it is left out.
    """
    kinds = dict(columns)
    errors = []
    for path, values in labels.items():
        for name, value in list(values.items()):
            kind = kinds.setdefault(name, type(value))
            if kind is str and not isinstance(value, str):
                values[name] = json.dumps(value)
            elif kind is not str and isinstance(value, str):
                del values[name]
                errors.append((path, f"{name} of {path} is {value!r}, but a number elsewhere: write a number."))
    return errors


def relabel(row: Row, values: Mapping[str, object]) -> Row:
    """A row with other labels: those that it had are taken away, unless they are there still."""
    had = json.loads(row["labels"] or "{}")
    return row | dict.fromkeys(had) | {"labels": None} | values


def loses_facts(had: str | None, values: Mapping[str, object]) -> bool:
    """Whether a label goes that hid what a scene itself says, so that the scene has to be read again."""
    return any(name in json.loads(had or "{}") and name not in values for name in ("date", "sensor"))
