"""Read Parquet files of vectors as rows of an index: those of `pir export-rows` and `pir embed`, and similar ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import need
from ..stores.columns import COLUMNS, Row
from .geoparquet import EMBEDDING

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 10_000
PATH_NAMES = ("path", "file_name", "filename", "file", "id")  # columns that may name the image, the first one counts


@dataclass(frozen=True)
class VectorFile:
    """A Parquet file of vectors.

    Attributes:
        path: of the file.
        description: `model_id`, `revision`, `weights` and `dim` of the model that made them, see `Encoder.describe`.
        columns: of the file that an index takes: its own, and those that labels brought to an exported one.
        path_column: that names the images; None if there is none.
    """

    path: str
    description: dict
    columns: tuple[str, ...]
    path_column: str | None

    def parts(self) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Rows, with the columns of an index but no id where the file has none, and their vectors (rows, dim).

        Rows without a vector, which could not be embedded, are left out.
        """
        pq = need("pyarrow.parquet", "search", "Parquet needs")
        first = 0
        with pq.ParquetFile(self.path) as file:
            names = dict.fromkeys([*self.columns, self.path_column, EMBEDDING])
            names |= dict.fromkeys({"geometry"} & set(file.schema_arrow.names))
            for batch in file.iter_batches(BATCH_ROWS, columns=[name for name in names if name is not None]):
                vectors = batch.column(EMBEDDING)
                kept = np.flatnonzero(np.asarray(vectors.is_valid()))
                rows = batch.drop_columns([EMBEDDING]).take(kept).to_pylist()
                flat = vectors.take(kept).flatten().to_numpy(zero_copy_only=False)
                if len(rows):
                    numbers = (first + kept).tolist()
                    yield list(map(self._row, rows, numbers)), flat.reshape(len(rows), -1).astype(np.float32)
                first += batch.num_rows

    def _row(self, values: dict, number: int) -> Row:
        """A row of the file, as an index has it."""
        row: Row = dict.fromkeys(COLUMNS) | {name: values[name] for name in self.columns}
        row["path"] = str(values[self.path_column]) if self.path_column else f"{self.path}#{number}"
        if values.get("geometry"):
            geometry, bounds = _polygons(values["geometry"])
            row["footprint"] = json.dumps(geometry)
            if row["minx"] is None:
                row |= zip(("minx", "miny", "maxx", "maxy"), bounds, strict=True)
        return row


def open_vectors(path: str | Path) -> VectorFile:
    """Open a Parquet file of vectors.

    Args:
        path: of the file.

    Raises:
        ValueError: no Parquet file, no vectors of one length in it, or no word of the model that made them.
        ImportError: pyarrow is missing.
    """
    pa = need("pyarrow", "search", "Parquet needs")
    pq = need("pyarrow.parquet", "search", "Parquet needs")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable Parquet file ({reason}): name one with vectors.") from error
    if EMBEDDING not in schema.names:
        raise ValueError(
            f"{path} has no column {EMBEDDING!r} among {', '.join(schema.names)}: name a file that pir export-rows "
            "or pir embed has written."
        )
    kind = schema.field(EMBEDDING).type
    description = _description(schema.metadata or {})
    if description is None:
        raise ValueError(
            f"{path} does not say which model made its vectors (no metadata 'emb' or 'pir'): vectors of an unknown "
            "model cannot be compared with a sentence."
        )
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != description["dim"]:
        raise ValueError(
            f"The vectors of {path} are {kind}, not {description['dim']} values each as its metadata say: write the "
            "file again."
        )
    columns = tuple(name for name in COLUMNS if name in schema.names and _fits(schema.field(name).type, COLUMNS[name]))
    if b"emb" in schema.metadata:
        others = [item for item in schema if item.name not in COLUMNS]
        columns += tuple(item.name for item in others if any(_fits(item.type, kind) for kind in (str, int, float)))
    path_column = next((name for name in PATH_NAMES if name in schema.names), None)
    return VectorFile(str(path), description, columns, path_column)


def _description(metadata: Mapping[bytes, bytes]) -> dict | None:
    """What made the vectors, as an index stores it; None if the file does not say."""
    try:
        if b"emb" in metadata:
            facts = json.loads(metadata[b"emb"])
            names = {"model_id": "model", "revision": "revision", "weights": "weights_sha256", "dim": "dimensions"}
            return {own: facts[name] for own, name in names.items()}
        facts = json.loads(metadata[b"pir"])
        return {name: facts[name] for name in ("model_id", "revision", "weights", "dim")}
    except (KeyError, ValueError, TypeError):
        return None


def _fits(kind: pa.DataType, wanted: type) -> bool:
    """Whether a column of the file can be the column of the same name of an index."""
    import pyarrow as pa

    tests = {
        str: (pa.types.is_string, pa.types.is_large_string),
        int: (pa.types.is_integer,),
        float: (pa.types.is_floating,),
    }
    return any(test(kind) for test in tests[wanted])


def _polygons(wkb: bytes) -> tuple[dict, tuple[float, float, float, float]]:
    """A geometry as a GeoJSON polygon or several, of other kinds the rectangle around it; and its bounds."""
    shapely = need("shapely", "geo", "Geometries need")
    from shapely.geometry import box, mapping

    geometry = shapely.from_wkb(wkb)
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        geometry = box(*geometry.bounds)
    return json.loads(json.dumps(mapping(geometry))), geometry.bounds
