"""Write an index as a STAC Collection: an Item per file, and all vectors in one GeoParquet file.

The Collection's fields are those of STAC's embeddings extension (a proposal, v0.0.1 of
github.com/geo-embeddings/embeddings-stac-specification).
"""

from __future__ import annotations

import calendar
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ...errors import need
from ..stores.columns import Row
from .geoparquet import Parts, write_geoparquet

if TYPE_CHECKING:
    import pystac

EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
VECTORS = "embeddings.parquet"
PARQUET = "application/vnd.apache.parquet"
FIRST_YEAR = 1900  # of the interval of an image without a date, which ends when its file was last changed
KINDS = {".tif": "image/tiff; application=geotiff", ".tiff": "image/tiff; application=geotiff", ".png": "image/png"}
GLOBE = (-180.0, -90.0, 180.0, 90.0)


@dataclass
class _File:
    """What the rows of a file say of it: their bounding boxes and the first row."""

    row: Row
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north of all rows, across the antimeridian where one of them is; None without a place."""
        if not self.boxes:
            return None
        start = self.boxes[0][0]
        unrolled = [(start + (w - start + 180) % 360 - 180, s, (e - w) % 360, n) for w, s, e, n in self.boxes]
        west, east = min(w for w, *_ in unrolled), max(w + width for w, _, width, _ in unrolled)
        if east - west >= 360:
            west, east = -180, 180
        south, north = min(s for _, s, *_ in unrolled), max(n for *_, n in unrolled)
        return (west + 180) % 360 - 180, south, east if east <= 180 else east - 360, north


def write_stac(path: Path, parts: Parts, metadata: Mapping) -> int:
    """Write a Collection, its Items and the vectors, each file whole or not at all; the Collection comes last.

    Args:
        path: of the Collection, `FOLDER/collection.json`; Items come into folders beside it.
        parts: rows and vectors.
        metadata: of the index.

    Returns:
        The number of rows.

    Raises:
        ImportError: pystac or pyarrow is missing.
        OSError: the folder cannot be written.
    """
    pystac = need("pystac", "stac", "STAC needs")
    folder = path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, _File] = {}
    sizes: set[tuple[int, int]] = set()

    def noted() -> Iterator[tuple]:
        for rows, vectors in parts:
            for row in rows:
                _note(row, files, sizes)
            yield rows, vectors

    with TemporaryDirectory(prefix=".stac-", dir=folder) as partial:
        count = write_geoparquet(Path(partial, VECTORS), noted(), metadata)
        _save_collection(pystac, files, metadata, sizes, folder, partial)
        for file in sorted(Path(partial).rglob("*.*"), key=lambda file: file.name == path.name):
            target = folder / file.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    return count


def _save_collection(
    pystac: object, files: Mapping[str, _File], metadata: Mapping, sizes: set, folder: Path, partial: str
) -> None:
    """Write Collection and Items that belong into one folder to another."""
    items = [_item(pystac, name, file, folder) for name, file in sorted(files.items())]
    collection = _collection(pystac, items, metadata, sizes, folder)
    collection.add_asset("embeddings", pystac.Asset(f"./{VECTORS}", "Vectors", media_type=PARQUET, roles=["data"]))
    collection.add_items(items)
    collection.normalize_hrefs(str(folder))
    collection.make_all_asset_hrefs_relative()
    collection.save(pystac.CatalogType.SELF_CONTAINED, dest_href=partial)


def _note(row: Row, files: dict[str, _File], sizes: set[tuple[int, int]]) -> None:
    """Take a row into account."""
    file = files.setdefault(row["path"], _File(row))
    box = tuple(row[name] for name in ("minx", "miny", "maxx", "maxy"))
    if None not in box:
        file.boxes.append(box)
    if None not in (row["height"], row["width"]):
        sizes.add((row["height"], row["width"]))


def _item(pystac: object, path: str, file: _File, folder: Path) -> pystac.Item:
    """A file as an Item."""
    bounds = file.bounds
    moment, interval = _times(file.row)
    properties = {name: file.row[name] for name in ("sensor", "scene", "crs") if file.row[name]}
    known = {"platform": properties.get("sensor"), "pir:scene": properties.get("scene")}
    code = properties.get("crs", "")
    known["proj:code"] = code if code.startswith("EPSG:") else None
    digest = hashlib.blake2b(path.encode(), digest_size=4).hexdigest()
    item = pystac.Item(
        id=f"{Path(path).stem}-{digest}",
        geometry=None if bounds is None else _outline(*bounds),
        bbox=None if bounds is None else list(bounds),
        datetime=moment,
        properties={name: value for name, value in known.items() if value} | interval,
    )
    suffix = Path(path).suffix.lower()
    item.add_asset("image", pystac.Asset(path, media_type=KINDS.get(suffix, "image/jpeg"), roles=["data"]))
    item.add_asset("embeddings", pystac.Asset(str(folder / VECTORS), media_type=PARQUET, roles=["embeddings"]))
    return item


def _outline(west: float, south: float, east: float, north: float) -> dict:
    """A bounding box as GeoJSON, in two parts across the antimeridian."""

    def ring(low: float, high: float) -> list:
        return [[[low, south], [high, south], [high, north], [low, north], [low, south]]]

    if west <= east:
        return {"type": "Polygon", "coordinates": ring(west, east)}
    return {"type": "MultiPolygon", "coordinates": [ring(west, 180.0), ring(-180.0, east)]}


def _times(row: Row) -> tuple[datetime | None, dict]:
    """The moment of an image, or the interval in which it was taken as far as that is known."""
    parts = [int(part) for part in (row["date"] or "").split("-") if part]
    if len(parts) == 3:
        return datetime(*parts, tzinfo=UTC), {}
    if parts:
        year, month = parts[0], parts[1] if len(parts) > 1 else None
        first = datetime(year, month or 1, 1, tzinfo=UTC)
        last_month = month or 12
        last = datetime(year, last_month, calendar.monthrange(year, last_month)[1], 23, 59, 59, tzinfo=UTC)
    else:
        first = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
        last = datetime.fromtimestamp(row["time"], UTC) if row["time"] else datetime.now(UTC)
    return None, {"start_datetime": _stamp(first), "end_datetime": _stamp(last)}


def _stamp(moment: datetime) -> str:
    """A moment as STAC writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _collection(
    pystac: object, items: list, metadata: Mapping, sizes: set[tuple[int, int]], folder: Path
) -> pystac.Collection:
    """The Collection of the Items."""
    boxes = [item.bbox for item in items if item.bbox]
    crosses = any(west > east for west, _, east, _ in boxes)
    wests, souths, easts, norths = zip(*boxes, strict=True) if boxes else ([v] for v in GLOBE)
    box = [-180.0 if crosses else min(wests), min(souths), 180.0 if crosses else max(easts), max(norths)]
    starts = [item.datetime or pystac.utils.str_to_datetime(item.properties["start_datetime"]) for item in items]
    ends = [item.datetime or pystac.utils.str_to_datetime(item.properties["end_datetime"]) for item in items]
    times = [[min(starts), max(ends)]] if items else [[None, None]]
    layout = {"layout_type": "regular_grid" if len(sizes) == 1 else "variable_grid"}
    layout |= {"chip_size": list(*sizes)} if len(sizes) == 1 else {}
    model = metadata["model_id"] or "a model without a name"
    collection = pystac.Collection(
        id="embeddings",
        description=f"Images embedded by {model}, for retrieval by sentences and images.",
        extent=pystac.Extent(pystac.SpatialExtent([box]), pystac.TemporalExtent(times)),
        license="other",
        stac_extensions=[EXTENSION],
        extra_fields={
            "emb:type": "chip",
            "emb:dimensions": metadata["dim"],
            "data_type": "float32",
            "emb:chip_layout": layout,
            "emb:fit_for_use": ["retrieval"],
        },
    )
    address = os.path.relpath(model, folder) if os.path.exists(model) else f"https://huggingface.co/{model}"
    collection.add_link(pystac.Link("emb:model", address, title=f"weights {metadata['weights'][:8]}"))
    sources = {os.path.dirname(item.assets["image"].href) for item in items}
    if sources and all(map(os.path.isabs, sources)):
        collection.add_link(pystac.Link("emb:source-data", os.path.relpath(os.path.commonpath(sources), folder)))
    return collection
