"""A hit: an image or a chip that a search has found."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from .stores.columns import COLUMNS, Row


@dataclass(frozen=True)
class Hit:
    """A found image or part of a scene.

    Attributes:
        id: of the row, a hash of path and window.
        path: of the file; what an image in memory was called.
        similarity: cosine, in [-1, 1].
        window: (col_off, row_off, width, height) in pixels of the file.
        bounds: (west, south, east, north) in degrees; west > east across the antimeridian. None without a place.
        footprint: GeoJSON geometry in WGS84; None without a place.
        crs: of the file.
        date: ISO date, or a part of it.
        sensor: such as "Landsat-8".
        scene: label.
        size: of the file, bytes.
        time: last change of the file, seconds since 1970.
        relevance: standard deviations by which the score that ranks the hit (its similarity, for sentences less a share
            of its hubness) lies above the query's scores in the archive at large; None where the archive does not vary.
        others: rows of the same place that the hit stands for, where hits are grouped.
        is_missing: whether its file is not there any more, or not mounted.
        bands: numbers of red, green and blue that were asked for when its scene was cut.
        labels: what a `metadata.jsonl` says of it, by column.
    """

    id: str
    path: str
    similarity: float
    window: tuple[int, int, int, int] | None
    bounds: tuple[float, float, float, float] | None
    footprint: dict | None
    crs: str | None
    date: str | None
    sensor: str | None
    scene: str | None
    size: int | None
    time: float | None
    relevance: float | None = None
    others: int = 0
    is_missing: bool = False
    bands: tuple[int, ...] | None = None
    labels: dict[str, str | float] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Row, similarity: float, relevance: float | None = None, others: int = 0) -> Hit:
        """A hit from a row of the index."""
        window = tuple(row[name] for name in ("col_off", "row_off", "width", "height"))
        bounds = tuple(row[name] for name in ("minx", "miny", "maxx", "maxy"))
        footprint = json.loads(row["footprint"]) if row["footprint"] else None
        same = {name: row[name] for name in ("id", "path", "crs", "date", "sensor", "scene", "size", "time")}
        return cls(
            similarity=similarity,
            window=None if None in window else window,
            bounds=None if None in bounds else bounds,
            footprint=footprint,
            relevance=relevance,
            others=others,
            is_missing=row["size"] is not None and not os.path.exists(row["path"]),
            bands=tuple(json.loads(row["chips"] or "{}").get("bands", ())) or None,
            labels=json.loads(row["labels"] or "{}"),
            **same,
        )

    def to_row(self) -> Row:
        """The columns of an index that a hit knows; the others are None."""
        row: Row = dict.fromkeys(COLUMNS)
        row |= {name: getattr(self, name) for name in ("id", "path", "crs", "date", "sensor", "scene", "size", "time")}
        row |= zip(("col_off", "row_off", "width", "height"), self.window or (), strict=bool(self.window))
        row |= zip(("minx", "miny", "maxx", "maxy"), self.bounds or (), strict=bool(self.bounds))
        row["footprint"] = json.dumps(self.footprint) if self.footprint else None
        return row
