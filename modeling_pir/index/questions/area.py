"""Polygons as an area of search, and patterns of paths to leave out."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import need

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


class Area:
    """Polygons on the ground, in degrees of WGS84 as GeoJSON prescribes (RFC 7946).

    Args:
        source: a GeoJSON object, or the path of a file: a polygon, a feature, or a collection of them.

    Attributes:
        bounds: (west, south, east, north).

    Raises:
        ValueError: no such file, no GeoJSON, no polygon, one that crosses itself, or one that is not in degrees.
        ImportError: shapely is missing.
    """

    def __init__(self, source: str | Path | dict) -> None:
        shapely = need("shapely", "geo", "A polygon as area needs")

        name = "The area" if isinstance(source, dict) else str(source)
        polygons = [_polygon(geometry, name) for geometry in _geometries(_read(source), name)]
        self._shape = shapely.union_all(polygons)
        shapely.prepare(self._shape)
        self.bounds: tuple[float, float, float, float] = self._shape.bounds

    @property
    def clause(self) -> str:
        """SQL that leaves out most of what lies elsewhere; rows across the antimeridian (west > east) are kept."""
        west, south, east, north = self.bounds
        return f"(miny <= {north} AND maxy >= {south} AND (minx > maxx OR (minx <= {east} AND maxx >= {west})))"

    def touches(self, footprint: str | None) -> bool:
        """Whether a footprint, GeoJSON as rows hold it, touches the polygons; None lies nowhere."""
        from shapely.geometry import shape

        return footprint is not None and bool(self._shape.intersects(shape(json.loads(footprint))))


def _read(source: str | Path | dict) -> dict:
    """The GeoJSON object."""
    if isinstance(source, dict):
        return source
    try:
        found = json.loads(Path(source).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{source} cannot be read ({error.strerror}): name a GeoJSON file.") from error
    except ValueError as error:
        raise ValueError(f"{source} is not GeoJSON ({error}): name a file with a polygon.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{source} is not GeoJSON, but a JSON {type(found).__name__}: name a file with a polygon.")
    return found


def _geometries(found: dict, name: str) -> list[dict]:
    """The polygons of a GeoJSON object."""
    kind = found.get("type")
    if kind == "FeatureCollection":
        geometries = [part for feature in found.get("features") or [] for part in _geometries(feature, name)]
    elif kind == "Feature":
        geometries = _geometries(found.get("geometry") or {}, name)
    elif kind == "GeometryCollection":
        geometries = [part for geometry in found.get("geometries") or [] for part in _geometries(geometry, name)]
    elif kind in ("Polygon", "MultiPolygon"):
        geometries = [found]
    else:
        raise ValueError(f"{name} holds a {kind or 'thing without a type'}, not a polygon: draw the area as a polygon.")
    if not geometries:
        raise ValueError(f"{name} holds no polygon: draw the area as a polygon.")
    return geometries


def _polygon(geometry: dict, name: str) -> BaseGeometry:
    """One geometry, checked."""
    from shapely import is_valid_reason
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        polygon = shape(geometry)
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{name} holds a broken polygon ({error}): give rings of [longitude, latitude].") from error
    if polygon.is_empty or not polygon.is_valid:
        raise ValueError(f"{name} has an invalid polygon ({is_valid_reason(polygon)}): draw it again.")
    west, south, east, north = polygon.bounds
    if not (-180 <= west and east <= 180 and -90 <= south and north <= 90):
        raise ValueError(
            f"{name} reaches from {west:g},{south:g} to {east:g},{north:g}, which are not degrees: GeoJSON is in "
            "longitude and latitude (EPSG:4326)."
        )
    return polygon


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, its end or its name matches any shell pattern; capital letters matter."""
    return any(fnmatch.fnmatchcase(path, end) for pattern in patterns for end in (pattern, f"*/{pattern}"))
