"""The columns of an index, beside the embedding."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS: dict[str, type] = {  # of an index, beside the embedding
    "id": str,  # of the row: a hash of path and window
    "path": str,  # of the file, "./..." below the index's root
    "col_off": int,  # window of the file, pixels
    "row_off": int,
    "width": int,
    "height": int,
    "footprint": str,  # GeoJSON geometry, WGS84
    "minx": float,  # its bounding box, degrees; minx > maxx across the antimeridian
    "miny": float,
    "maxx": float,
    "maxy": float,
    "crs": str,  # of the file
    "date": str,  # ISO, so that it sorts as text
    "sensor": str,
    "scene": str,  # label
    "size": int,  # of the file, bytes
    "time": float,  # last change of the file, seconds since 1970
    "hash": str,  # BLAKE2b of the file
    "chips": str,  # how its scene was cut, as JSON; null for what is one image
    "labels": str,  # what a metadata.jsonl says of it, as JSON
    "hubness": float,  # how near it is to any sentence, see `index.questions.ranking`; None where not measured
}
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is the one that was indexed: bytes, seconds since 1970, BLAKE2b, and how it was."""

    size: int | None
    time: float | None
    hash: str | None
    chips: str | None = None
    labels: str | None = None


STATE_COLUMNS = ("size", "time", "hash", "chips", "labels")


def row_id(path: str, window: Sequence[int]) -> str:
    """The id of a row: a hash of path and window, 32 hexadecimal digits."""
    name = f"{path}|{','.join(map(str, window))}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def in_files(paths: Sequence[str]) -> str:
    """The filter for the rows of some files."""
    return f"path IN ({', '.join(map(quote, paths))})"


def quote(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"
