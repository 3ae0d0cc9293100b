"""Write rows as GeoJSON (RFC 7946): footprints as geometry, the other columns as properties, no vectors."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..stores.columns import Row

LEFT_OUT = ("footprint", "hash")  # columns that are no properties of a feature


def feature(row: Row) -> dict:
    """A row as a feature; its geometry is null where the row has no place on the ground."""
    known = {name: value for name, value in row.items() if name not in LEFT_OUT and value is not None}
    geometry = json.loads(row["footprint"]) if row["footprint"] else None
    return {"type": "Feature", "geometry": geometry, "properties": known}


def feature_collection(features: Iterable[dict]) -> str:
    """Features as one GeoJSON text, one feature a line."""
    return "".join(_lines(features))


def write_geojson(path: Path, features: Iterable[dict]) -> None:
    """Write features as one GeoJSON file, as they come."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_lines(features))


def _lines(features: Iterable[dict]) -> Iterator[str]:
    """The text of a FeatureCollection in parts."""
    yield '{"type": "FeatureCollection", "features": ['
    for number, item in enumerate(features):
        yield (",\n" if number else "\n") + json.dumps(item, ensure_ascii=False)
    yield "\n]}\n"
