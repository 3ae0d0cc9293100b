"""Rows of an index as files for other programs: GeoJSON for a map, GeoParquet for QGIS, DuckDB, Milvus or Qdrant."""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import need
from .stores.columns import COLUMNS, Row

if TYPE_CHECKING:
    from .hit import Hit


Parts = Iterable[tuple[list[Row], np.ndarray]]  # rows and their vectors (rows, projection_dim)
HIDDEN = ("footprint", "hash")  # columns that are no properties of a feature
WKB_TYPES = {"Polygon": 3, "MultiPolygon": 6}


def feature(row: Row, **properties: float | int) -> dict:
    """A row as a GeoJSON feature; its geometry is null where the row has no place on the ground."""
    known = {name: value for name, value in row.items() if name not in HIDDEN and value is not None}
    geometry = json.loads(row["footprint"]) if row["footprint"] else None
    return {"type": "Feature", "geometry": geometry, "properties": properties | known}


def write_geojson(path: Path, features: Iterable[dict]) -> int:
    """Write a FeatureCollection; returns the number of features."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for count, item in enumerate(features, start=1):
            file.write(("\n" if count == 1 else ",\n") + json.dumps(item, ensure_ascii=False))
        file.write("\n]}\n")
    return count


def wkb(geometry: dict) -> bytes:
    """A GeoJSON Polygon or MultiPolygon as well-known binary, little-endian (OGC 06-103r4, section 8.2)."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    head = struct.pack("<BII", 1, WKB_TYPES[kind], len(coordinates))
    if kind == "MultiPolygon":
        return head + b"".join(wkb({"type": "Polygon", "coordinates": polygon}) for polygon in coordinates)
    rings = (struct.pack("<I", len(ring)) + np.asarray(ring, dtype="<f8")[:, :2].tobytes() for ring in coordinates)
    return head + b"".join(rings)


def write_parquet(path: Path, parts: Parts, dim: int) -> int:
    """Write rows with their vectors, the footprints as GeoParquet 1.1 geometry.

    Args:
        path: of the file.
        parts: rows and vectors.
        dim: length of a vector.

    Returns:
        The number of rows.

    Raises:
        ImportError: pyarrow is missing.
    """
    pa = need("pyarrow", "search", "Parquet needs")
    pq = need("pyarrow.parquet", "search", "Parquet needs")
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    fields = [pa.field(name, types[kind]) for name, kind in COLUMNS.items() if name != "footprint"]
    fields += [pa.field("geometry", pa.binary()), pa.field("embedding", pa.list_(pa.float32(), dim))]
    geo = {"encoding": "WKB", "geometry_types": sorted(WKB_TYPES, reverse=True)}  # no crs: WGS84, longitude first
    metadata = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geo}}
    schema = pa.schema(fields, metadata={"geo": json.dumps(metadata)})
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows, vectors in parts:
            columns = [pa.array([row[item.name] for row in rows], item.type) for item in fields[:-2]]
            shapes = (row["footprint"] and wkb(json.loads(row["footprint"])) for row in rows)
            columns.append(pa.array(list(shapes), pa.binary()))
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(rows)
    return count


def export_rows(path: str | Path, parts: Parts, dim: int) -> int:
    """Write rows to a file whose suffix names the format: `.geojson` (no vectors) or `.parquet`.

    Args:
        path: of the file.
        parts: rows and vectors.
        dim: length of a vector.

    Returns:
        The number of rows.

    Raises:
        ValueError: another suffix.
        ImportError: pyarrow is missing.
    """
    path = Path(path)
    if path.suffix == ".geojson":
        return write_geojson(path, _features(parts))
    if path.suffix in (".parquet", ".geoparquet"):
        return write_parquet(path, parts, dim)
    raise ValueError(f"{path} has the suffix {path.suffix!r}: name a .geojson or a .parquet file.")


def _features(parts: Parts) -> Iterator[dict]:
    """All rows as features."""
    for rows, _ in parts:
        yield from map(feature, rows)


def write_hits(path: str, hits: Sequence["Hit"]) -> None:
    """Write the hits as GeoJSON, their rank and similarity among the properties."""
    pass

    features = []
    for rank, hit in enumerate(hits, start=1):
        properties = asdict(hit)
        footprint = properties.pop("footprint")
        known = {name: value for name, value in properties.items() if value is not None}
        features.append({"type": "Feature", "geometry": footprint, "properties": {"rank": rank} | known})
    write_geojson(Path(path), features)
