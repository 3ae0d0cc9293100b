"""The columns of an index, beside the embedding."""

from dataclasses import dataclass

COLUMNS: dict[str, type] = {  # of an index, beside the embedding
    "id": str,  # of the row: a hash of path and window
    "path": str,  # absolute
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
    "hubness": float,  # how near it is to any sentence, see `index.questions.ranking`; None where not measured
}
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is the one that was indexed: bytes, seconds since 1970, BLAKE2b."""

    size: int
    time: float
    hash: str
