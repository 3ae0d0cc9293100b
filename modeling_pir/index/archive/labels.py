"""Read labels from `metadata.jsonl` or `metadata.csv`, as in an imagefolder data set: one `file_name` per line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..stores.columns import COLUMNS, Row
from .dates import iso_date

LABELS_FILES = ("metadata.jsonl", "metadata.csv")
LABELS = ("scene", "date", "sensor")  # that have a column in any index
logger = logging.getLogger(__name__)
Labels = dict[str, dict]  # by absolute path: columns and their values, and all of them as JSON under `labels`
Errors = list[tuple[str, str]]  # (path, sentence)


def read_labels(path: str | Path) -> tuple[Labels, Errors]:
    """Read a label file.

    Args:
        path: of the file; `file_name` is relative to its folder. JSON lines, or CSV separated by commas, semicolons or
            tabs. UTF-8, UTF-16 or, as older editors write it, Windows-1252.

    Returns:
        Labels by absolute path, of all lines of a file together, and what is wrong with which line. Dates are ISO;
        other keys than `LABELS` become columns of that name in small letters, numbers as numbers, lists and objects as
        JSON.
    """
    labels: Labels = {}
    errors: Errors = []
    folder = os.path.dirname(os.path.abspath(path))
    try:
        text = _decode(Path(path).read_bytes(), path)
    except OSError as error:
        return {}, [(str(path), f"{path} cannot be read ({error.strerror}): allow it, remove it or replace it.")]
    lines = _table_lines(text) if str(path).lower().endswith(".csv") else _json_lines(text)
    for number, entry in lines:
        at = f"Line {number} of {path}"
        if isinstance(entry, str):
            errors.append((str(path), f"{at} {entry}"))
            continue
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"].strip():
            errors.append((str(path), f"{at} names no file: write its file_name, or remove the line."))
            continue
        values, problems = _columns(entry)
        errors += [(str(path), f"{at}: {problem}") for problem in problems]
        own = labels.setdefault(_place(folder, entry["file_name"]), {})
        for name in LABELS:
            if name in own and values.get(name, own[name]) != own[name]:
                problem = f"{name} is {values.pop(name)!r}, but {own[name]!r} on a line before it: keep one of them."
                errors.append((str(path), f"{at}: {problem}"))
        own |= values
    return {place: own | {"labels": json.dumps(own, sort_keys=True)} for place, own in labels.items()}, errors


def _json_lines(text: str) -> Iterator[tuple[int, dict | str]]:
    """Number and object of each line, or what is wrong with it. Only line ends count: U+2028 may be part of a text."""
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError(f"it is {type(entry).__name__}")
        except (ValueError, RecursionError) as error:
            yield number, f"is not a JSON object ({error}): correct it or remove it."
        else:
            yield number, entry


def _table_lines(text: str) -> Iterator[tuple[int, dict | str]]:
    """Number and cells of each line below the head, by column, or what is wrong with it; empty cells say nothing."""
    head = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), skipinitialspace=True)
    try:
        if "file_name" not in (table.fieldnames or ()):
            yield 1, "has no column file_name: name it so, and the others scene, date, sensor or as you like."
            return
        for row in table:
            if None in row:
                yield table.line_num, "has more cells than the head: put what holds a separator in quotes."
            else:
                yield (
                    table.line_num,
                    {name: cell if name.lower() in LABELS else _number(cell) for name, cell in row.items() if cell},
                )
    except csv.Error as error:
        yield table.line_num, f"cannot be read ({error}): close its quotes."


def _number(cell: str) -> str | float:
    """What a cell says: a number where it is written as one, as JSON has it."""
    return float(cell) if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", cell) else cell


def _place(folder: str, name: str) -> str:
    """The absolute path of a file that a line names, however its separators and accents are written."""
    place = os.path.normpath(os.path.join(folder, name))
    if name.isascii() and "\\" not in name:
        return place
    slashed = os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
    spelled = [place, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
    return next((path for path in spelled if os.path.lexists(path)), place)


def _decode(content: bytes, path: str | Path) -> str:
    """The text of a file whose encoding is told by its mark, or is UTF-8, or else what Windows uses in the west."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        logger.warning("%s is not UTF-8: it is read as Windows-1252.", path)
        return content.decode("cp1252", errors="replace")


def _columns(entry: Mapping[str, object]) -> tuple[dict[str, str | float], list[str]]:
    """Columns and values of a line, and what is wrong with those that are left out."""
    values: dict[str, str | float] = {}
    problems = []
    for key, value in entry.items():
        name = re.sub(r"\W", "_", key.lower(), flags=re.ASCII)
        if key == "file_name" or value is None or not name.strip("_"):
            continue
        if name == "date":
            try:
                values[name] = iso_date(_as_text(value))
            except ValueError as error:
                problems.append(str(error))
        elif name in LABELS:
            if isinstance(value, str | int | float):
                values[name] = _as_text(value)
            else:
                problems.append(f"{name} is {json.dumps(value)[:60]}: write one name.")
        else:
            name = f"label_{name}" if name in COLUMNS or name in ("row", "code", "embedding") else name
            name = f"_{name}" if name[0].isdigit() else name
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            values[name] = float(value) if is_number else value if isinstance(value, str) else json.dumps(value)
    return values, problems


def _as_text(value: object) -> str:
    """A name or a date that was written as a number, without the .0 that a table gives it."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return value if isinstance(value, str) else json.dumps(value)


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
        for path in (os.path.join(folder, name) for name in LABELS_FILES):
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
