"""Read tables of captions as records: CSV and TSV, JSON lines, a JSON list, COCO captions, Karpathy's splits."""

import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.data.formats.columns import CAPTIONS, NAMES, SCENES, SPLITS, caption_columns, find_column, plain_name
from training.data.formats.text_file import read_text

logger = logging.getLogger(__name__)
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".jl")
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
SEPARATORS = ",;\t|"
IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
NEEDED = "it needs file_name (or path) and captions (or caption)"


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def is_tar(path: Path) -> bool:
    """Whether a file is a tar by its name, compressed or not."""
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))


@dataclass(frozen=True)
class Record:
    """One line of a table.

    Attributes:
        place: where it is, for errors: "line 3", "annotation 7".
        values: column or field name to its cell.
    """

    place: str
    values: dict[str, object]


def read_records(table: Path) -> list[Record]:
    """Read a table of captions.

    Args:
        table: CSV of any usual encoding and separator, JSON lines, a JSON list, COCO captions, Karpathy's splits, or
            {"a.jpg": ["..."]}.

    Returns:
        Its records; each has a column of `NAMES` and at least one with captions.

    Raises:
        ValueError: it cannot be read; the sentence names file, line and remedy.
    """
    suffix = table.suffix.lower()
    if suffix in SPREADSHEETS:
        raise ValueError(f"{str(table)!r} is a spreadsheet: save it as CSV (UTF-8) and give that.")
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{str(table)!r} is not a table: give one of {', '.join(TABLE_SUFFIXES)} or .parquet.")
    text = read_text(table)
    if "\n" not in text:  # as a Mac of old ends lines
        text = text.replace("\r", "\n")
    records = _delimited(table, text) if suffix in (".csv", ".tsv", ".txt") else _json(table, text)
    if not records:
        raise ValueError(f"{str(table)!r} has a head but no lines: add one for each caption.")
    return records


def _delimited(table: Path, text: str) -> list[Record]:
    if re.match('"?sep=', text, re.IGNORECASE):  # how Excel is told the separator
        text = "\n" + text.partition("\n")[2]  # an empty line, so that numbers stay
    separator, columns, spaced = _head(table, text)
    rows = _cells(table, text, separator, spaced)
    if columns is None:
        columns = ["file_name", "caption"]
    else:
        next(rows, None)
    records = []
    for line, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        extra = cells[len(columns) :]
        if any(cell.strip() for cell in extra):
            raise ValueError(
                f"{str(table)!r}, line {line}, has {len(cells)} cells where the head has {len(columns)}: put captions "
                f"that hold a {separator!r} in quotes."
            )
        if not spaced and (odd := _cell_of_a_caption(columns, cells)):
            raise ValueError(
                f"{str(table)!r}, line {line}, has the {odd[0]} {odd[1]!r}, with a space in front: put captions that "
                f"hold a {separator!r} in quotes."
            )
        records.append(Record(f"line {line}", dict(zip(columns, cells, strict=False))))
    return records


def _cell_of_a_caption(columns: list[str], cells: list[str]) -> tuple[str, str] | None:
    """The column and the cell that the end of a caption fell into, where another row fills all cells by chance."""
    named = zip(columns, cells, strict=False)
    return next(
        ((name, cell) for name, cell in named if cell[:1] == " " and plain_name(name) in (*SCENES, *SPLITS)), None
    )


def _named_once(columns: list[str]) -> list[str]:
    """Names of columns in which no name is there twice: caption, caption become caption, caption_1."""
    seen: Counter[str] = Counter()
    named = []
    for column in map(str.strip, columns):
        named.append(f"{column}_{seen[column]}" if seen[column] else column)
        seen[column] += 1
    return named


def _head(table: Path, text: str) -> tuple[str, list[str] | None, bool]:
    """The separator, the columns' names, and whether a space follows each separator.

    None for names where the first line is a file and a caption.
    """
    first = next((line for line in re.split(r"[\r\n]", text) if line.strip()), "")
    heads = {
        separator: next(csv.reader([first], delimiter=separator, skipinitialspace=True)) for separator in SEPARATORS
    }
    for separator, columns in heads.items():
        if find_column(columns, NAMES) and caption_columns(columns):
            return separator, _named_once(columns), f"{separator} " in first
    for separator, cells in heads.items():
        if len(cells) == 2 and cells[0].split("#")[0].strip().lower().endswith(IMAGE_ENDS):
            return separator, None, f"{separator} " in first
    columns = max(heads.values(), key=len)
    raise ValueError(
        f"{str(table)!r} has the columns {', '.join(columns)[:200]} in line 1: {NEEDED}, separated by a comma, "
        "semicolon, tab or bar."
    )


def _cells(table: Path, text: str, separator: str, spaced: bool) -> Iterable[tuple[int, list[str]]]:
    """The cells of each line that is not blank, with the line's number."""
    stream = io.StringIO(text, newline="")
    quoted = csv.reader(stream, delimiter=separator, skipinitialspace=spaced, strict=True)
    try:
        for cells in quoted:
            if cells:
                yield quoted.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"{str(table)!r}, line {quoted.line_num}, cannot be read ({error}): close its quotes, and double those "
            "within a caption."
        ) from error


def _json(table: Path, text: str) -> list[Record]:
    text = text.strip("\ufeff \r\n\t")
    try:
        value = _parsed(text)
    except json.JSONDecodeError as whole:
        if not text.startswith("{") or "\n" not in text or table.suffix.lower() == ".json" and not _has_lines(text):
            raise _broken(table, whole.lineno, whole) from whole
        return [_checked(table, f"line {number}", _line(table, number, line)) for number, line in _lines(text)]
    if isinstance(value, dict) and "images" in value:
        return _coco(table, value) if "annotations" in value else _karpathy(table, value["images"])
    if isinstance(value, dict) and not find_column(value, NAMES):
        of_files = {name: own for name, own in value.items() if isinstance(own, str | list)}
        if not of_files or len(of_files) < len(value) or not all(Path(name).suffix for name in of_files):
            raise ValueError(f"{str(table)!r} has the fields {', '.join(value)[:200]}: {NEEDED}.")
        return [Record(f"entry {name!r}", {"file_name": name, "captions": own}) for name, own in of_files.items()]
    if isinstance(value, dict):  # JSON lines with one line
        return [_checked(table, "line 1", value)]
    rows = value if isinstance(value, list) else [value]
    return [_checked(table, f"entry {number}", row) for number, row in enumerate(rows, start=1)]


def _parsed(text: str) -> object:
    """The value of a JSON text; a fault that Python's reader calls otherwise is one of JSON, too."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise json.JSONDecodeError("too many brackets within each other", text, 0) from error
    except KeyError as error:
        raise json.JSONDecodeError(f"a field {error} twice in an object", text, 0) from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, of which no field is lost: json keeps the last of those with one name."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise KeyError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return value


def _has_lines(text: str) -> bool:
    """Whether the first line is a JSON object by itself."""
    try:
        return isinstance(_parsed(text.split("\n", 1)[0]), dict)
    except json.JSONDecodeError:
        return False


def _lines(text: str) -> Iterable[tuple[int, str]]:
    """Numbered lines. A line feed alone ends one, because a caption may hold other separators such as U+2028."""
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _line(table: Path, number: int, line: str) -> object:
    try:
        return _parsed(line)
    except json.JSONDecodeError as error:
        raise _broken(table, number, error) from error


def _broken(table: Path, line: int, error: json.JSONDecodeError) -> ValueError:
    return ValueError(
        f"{str(table)!r}, line {line}, is not JSON ({error.msg}, column {error.colno}): correct that line."
    )


def _checked(table: Path, place: str, row: object) -> Record:
    """A record of a JSON object that names a file and captions."""
    if not isinstance(row, dict):
        example = '{"file_name": "a.jpg", "captions": ["..."]}'
        raise ValueError(f"{str(table)!r}, {place}, is not an object: write {example}.")
    if not find_column(row, NAMES) or not caption_columns(row):
        raise ValueError(f"{str(table)!r}, {place}, has the fields {', '.join(map(str, row))[:200]}: {NEEDED}.")
    return Record(place, row)


def _coco(table: Path, value: dict) -> list[Record]:
    """Records of COCO captions: images with ids, and annotations that name an id and a caption."""
    images, notes = value["images"], value["annotations"]
    if not isinstance(images, list) or not isinstance(notes, list):
        raise ValueError(f"{str(table)!r} has images or annotations that are no list: write them as COCO does.")
    image_of: dict[str, dict] = {}  # by id as text, because some write 7 here and "7" there
    for number, image in enumerate(images, start=1):
        column = find_column(image, NAMES) if isinstance(image, dict) else None
        if column is None or "id" not in image:
            raise ValueError(f"{str(table)!r}, image {number}, has no id or no file_name: give it both, as COCO does.")
        if image_of.setdefault(str(image["id"]), image)[column] != image[column]:
            raise ValueError(f"{str(table)!r}, image {number}, has the id {image['id']!r} of another: give it its own.")
    records, named = [], set()
    for number, note in enumerate(notes, start=1):
        own_id = str(note.get("image_id")) if isinstance(note, dict) else None
        if own_id not in image_of or not find_column(note, CAPTIONS):
            raise ValueError(
                f"{str(table)!r}, annotation {number}, has no caption, or its image_id is none of the images: write "
                'it as {"image_id": 1, "caption": "..."}.'
            )
        named.add(own_id)
        image = {key: own for key, own in image_of[own_id].items() if plain_name(key) not in CAPTIONS}
        records.append(Record(f"annotation {number}", image | {"captions": note[find_column(note, CAPTIONS)]}))
    if len(named) < len(image_of):
        logger.warning(
            "%d of %d images in %s have no annotation: left out.", len(image_of) - len(named), len(image_of), table
        )
    return records


def _karpathy(table: Path, images: object) -> list[Record]:
    """Records of Karpathy's splits, the layout of the archives of RSICD and RSITMD, too."""
    records = []
    for number, image in enumerate(images if isinstance(images, list) else [None], start=1):
        record = _checked(table, f"image {number}", image)
        folder, name = image.get("filepath"), image.get("filename")
        if folder and name and not str(folder).endswith(str(name)):  # COCO's: the folder in one field
            own = {key: cell for key, cell in image.items() if key not in ("filepath", "filename")}
            record = Record(record.place, {"file_name": f"{folder}/{name}"} | own)
        records.append(record)
    return records
