"""Write the rows of an index, or the hits of a search with the same columns, as GeoJSON, CSV or GeoParquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..hub.whole_folder import whole_file
from .exchange.geojson import feature, feature_collection, write_geojson
from .exchange.geoparquet import write_geoparquet
from .exchange.stac_export import write_stac
from .stores.columns import COLUMNS, Row

if TYPE_CHECKING:
    from .hit import Hit

# Columns of a hit beside those of its row.
RANKING = {"rank": int, "similarity": float, "relevance": float, "others": int}
LEFT_OUT = ("footprint", "hash", "hubness")  # of a table: no outline fits a cell, the others are for the index alone
Parts = Iterable[tuple[list[Row], np.ndarray]]  # rows and their vectors (rows, projection_dim)


def export_rows(path: str | Path, parts: Parts, metadata: Mapping, columns: Mapping[str, type] = COLUMNS) -> int:
    """Write rows to a file whose name says the format: `.geojson` (no vectors), `.parquet`, or `collection.json`.

    Args:
        path: of the file.
        parts: rows and vectors.
        metadata: of the index.
        columns: of the index, with their types.

    Returns:
        The number of rows.

    Raises:
        ValueError: another suffix.
        ImportError: pyarrow is missing.
    """
    path = Path(path)
    if path.name == "collection.json":
        return write_stac(path, parts, metadata)
    if path.suffix == ".geojson":
        count = 0

        def features() -> Iterator[dict]:
            nonlocal count
            for rows, _ in parts:
                count += len(rows)
                yield from map(feature, rows)

        with whole_file(path) as partial:
            write_geojson(partial, features())
        return count
    if path.suffix in (".parquet", ".geoparquet"):
        extra = {name: kind for name, kind in columns.items() if name not in COLUMNS}
        with whole_file(path) as partial:
            return write_geoparquet(partial, parts, metadata, extra)
    raise ValueError(
        f"{path} has the suffix {path.suffix!r}: name a .geojson or a .parquet file, or FOLDER/collection.json."
    )


def hit_columns(hits: Sequence[Hit]) -> list[dict]:
    """Hits as rows with the columns of `RANKING` in front."""
    rows = []
    for rank, hit in enumerate(hits, start=1):
        relevance = None if hit.relevance is None else round(hit.relevance, 3)
        facts = {"rank": rank, "similarity": round(hit.similarity, 6), "relevance": relevance, "others": hit.others}
        rows.append(facts | hit.to_row())
    return rows


def as_geojson(hits: Sequence[Hit], metadata: Mapping) -> bytes:
    """A FeatureCollection; hits without a place have the geometry null."""
    return feature_collection(map(feature, hit_columns(hits))).encode()


def as_csv(hits: Sequence[Hit], metadata: Mapping) -> bytes:
    """A table with a header, UTF-8, commas; what is not known is empty, the outline is its bounding box."""
    columns = [*RANKING, *(name for name in COLUMNS if name not in LEFT_OUT)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in hit_columns(hits):
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return buffer.getvalue().encode()


def _harmless(value: object) -> object:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r") else value


def as_geoparquet(hits: Sequence[Hit], metadata: Mapping) -> bytes:
    """A GeoParquet file without vectors."""
    buffer = io.BytesIO()
    write_geoparquet(buffer, [(hit_columns(hits), None)], metadata, RANKING)
    return buffer.getvalue()


HIT_FORMATS: dict[str, tuple[str, Callable[[Sequence[Hit], Mapping], bytes]]] = {
    "geojson": ("application/geo+json", as_geojson),
    "csv": ("text/csv; charset=utf-8", as_csv),
    "parquet": ("application/vnd.apache.parquet", as_geoparquet),
}


def write_hits(path: str | Path, hits: Sequence[Hit], metadata: Mapping) -> None:
    """Write the hits of a search, without vectors, to a `.geojson`, `.csv` or `.parquet` file.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
    """
    check_hits_file(path)
    _, write = HIT_FORMATS[Path(path).suffix[1:]]
    with whole_file(path) as partial:
        partial.write_bytes(write(hits, metadata))


def check_hits_file(path: str | Path) -> None:
    """Refuse a name for hits that says no format.

    Raises:
        ValueError: it does not.
    """
    suffix = Path(path).suffix
    if suffix[1:] not in HIT_FORMATS:
        allowed = ", ".join(f".{name}" for name in HIT_FORMATS)
        raise ValueError(f"{path} has the suffix {suffix!r}: name one of {allowed}.")
