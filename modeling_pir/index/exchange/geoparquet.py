"""Write GeoParquet 1.1: rows with footprints, bounding boxes and vectors, and the model that made them.

The file's metadata hold `geo` (the geometry column, its CRS and its covering, which DuckDB and GDAL filter by) and
`emb` (model, revision, dimensions and how chips were cut).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ...errors import need
from ..stores.columns import COLUMNS, Row
from .geometry import TYPES, to_wkb

if TYPE_CHECKING:
    import pyarrow as pa

Parts = Iterable[tuple[list[Row], np.ndarray | None]]  # rows and their vectors (rows, dim)
BOX = {"xmin": "minx", "ymin": "miny", "xmax": "maxx", "ymax": "maxy"}  # GeoParquet's names for ours
EMBEDDING = "embedding"
CRS84 = {
    "$schema": "https://proj.org/schemas/v0.7/projjson.schema.json",
    "type": "GeographicCRS",
    "name": "WGS 84 (CRS84)",
    "datum_ensemble": {
        "name": "World Geodetic System 1984 ensemble",
        "members": [
            {"name": f"World Geodetic System 1984 ({name})", "id": {"authority": "EPSG", "code": code}}
            for name, code in (
                ("Transit", 1166),
                ("G730", 1152),
                ("G873", 1153),
                ("G1150", 1154),
                ("G1674", 1155),
                ("G1762", 1156),
                ("G2139", 1309),
                ("G2296", 1383),
            )
        ],
        "ellipsoid": {"name": "WGS 84", "semi_major_axis": 6378137, "inverse_flattening": 298.257223563},
        "accuracy": "2.0",
        "id": {"authority": "EPSG", "code": 6326},
    },
    "coordinate_system": {
        "subtype": "ellipsoidal",
        "axis": [
            {"name": "Geodetic longitude", "abbreviation": "Lon", "direction": "east", "unit": "degree"},
            {"name": "Geodetic latitude", "abbreviation": "Lat", "direction": "north", "unit": "degree"},
        ],
    },
    "id": {"authority": "OGC", "code": "CRS84"},
}  # longitude first, as GeoJSON has it


def _schema(metadata: Mapping, extra: Mapping[str, type], dim: int | None) -> pa.Schema:
    """The columns of a file and its metadata; without vectors if `dim` is None."""
    pa = need("pyarrow", "search", "Parquet needs")
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    columns = {**extra, **{name: kind for name, kind in COLUMNS.items() if name != "footprint"}}
    fields = [pa.field(name, types[kind]) for name, kind in columns.items()]
    fields.append(pa.field("geometry", pa.binary()))
    fields.append(pa.field("bbox", pa.struct([(name, pa.float64()) for name in BOX])))
    if dim is not None:
        fields.append(pa.field(EMBEDDING, pa.list_(pa.float32(), dim)))
    geometry = {
        "encoding": "WKB",
        "geometry_types": sorted(TYPES, reverse=True),
        "crs": CRS84,
        "orientation": "counterclockwise",
        "covering": {"bbox": {name: ["bbox", name] for name in BOX}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    texts = {"geo": json.dumps(geo), "emb": json.dumps(_embedding_facts(metadata))}
    return pa.schema(fields, metadata=texts)


def _embedding_facts(metadata: Mapping) -> dict:
    """What made the vectors, for the `emb` key."""
    return {
        "column": EMBEDDING,
        "model": metadata["model_id"],
        "revision": metadata["revision"],
        "weights_sha256": metadata["weights"],
        "family": metadata.get("family"),
        "dimensions": metadata["dim"],
        "dtype": "float32",
        "normalized": True,
        "distance": "cosine",
        "chip_layout": {"unit": "pixels of the file", "columns": ["col_off", "row_off", "width", "height"]},
    }


def write_geoparquet(
    target: Path | IO[bytes], parts: Parts, metadata: Mapping, extra: Mapping[str, type] | None = None
) -> int:
    """Write rows, with their vectors where there are any.

    Args:
        target: a path or an open file.
        parts: rows and vectors; all parts have vectors, or none.
        metadata: of the index, see [`PIRIndex`].
        extra: columns in front of those of an index, with their types.

    Returns:
        The number of rows.

    Raises:
        ImportError: pyarrow is missing.
    """
    pa = need("pyarrow", "search", "Parquet needs")
    pq = need("pyarrow.parquet", "search", "Parquet needs")
    writer, count = None, 0
    for rows, vectors in parts:
        if writer is None:
            schema = _schema(metadata, extra or {}, None if vectors is None else metadata["dim"])
            writer = pq.ParquetWriter(target, schema, compression="zstd")
        writer.write_table(pa.Table.from_arrays(_arrays(rows, vectors, schema), schema=schema))
        count += len(rows)
    if writer is None:
        writer = pq.ParquetWriter(target, _schema(metadata, extra or {}, metadata["dim"]), compression="zstd")
    writer.close()
    return count


def _arrays(rows: list[Row], vectors: np.ndarray | None, schema: pa.Schema) -> list[pa.Array]:
    """The columns of some rows."""
    import pyarrow as pa

    arrays = []
    for item in schema:
        if item.name == "geometry":
            shapes = [row["footprint"] and to_wkb(json.loads(row["footprint"])) for row in rows]
            arrays.append(pa.array([shape or None for shape in shapes], pa.binary()))
        elif item.name == "bbox":
            boxes = [{name: row[own] for name, own in BOX.items()} for row in rows]
            arrays.append(pa.array([None if None in box.values() else box for box in boxes], item.type))
        elif item.name == EMBEDDING:
            flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, schema.field(EMBEDDING).type.list_size))
        else:
            arrays.append(pa.array([row.get(item.name) for row in rows], item.type))
    return arrays
