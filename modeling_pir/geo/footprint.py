"""The outline of a window as GeoJSON, across the antimeridian."""

import math

import numpy as np

Window = tuple[int, int, int, int]  # col_off, row_off, width, height in pixels of the file
Bounds = tuple[float, float, float, float]  # west, south, east, north in degrees (WGS84)


def window_geometry(lon: np.ndarray, lat: np.ndarray) -> tuple[dict, Bounds]:
    """GeoJSON geometry and bounds of a quadrilateral that is narrower than half the globe.

    Args:
        lon: (4,) degrees, any turn.
        lat: (4,) degrees.

    Returns:
        A Polygon, or a MultiPolygon of its parts on both sides of the antimeridian; rings run counter-clockwise.
    """
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180  # of one turn, the first corner's
    lon = lon - 360 * math.floor((lon.min() + 180) / 360)  # west edge in [-180, 180)
    ring = list(zip(lon.tolist(), lat.tolist(), strict=True))
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True))
    ring = ring if area > 0 else ring[::-1]
    south, north = min(lat.tolist()), max(lat.tolist())
    if lon.max() <= 180:
        return {"type": "Polygon", "coordinates": [_closed(ring)]}, (float(lon.min()), south, float(lon.max()), north)
    west_part, east_part = _cut(ring, 180.0, 1), [(x - 360, y) for x, y in _cut(ring, 180.0, -1)]
    geometry = {"type": "MultiPolygon", "coordinates": [[_closed(west_part)], [_closed(east_part)]]}
    return geometry, (float(lon.min()), south, float(lon.max()) - 360, north)


def _cut(ring: list[tuple[float, float]], limit: float, side: int) -> list[tuple[float, float]]:
    """The part of a convex ring with x <= limit (side 1) or x >= limit (side -1)."""
    kept = []
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        if side * x0 <= side * limit:
            kept.append((x0, y0))
        if (x0 - limit) * (x1 - limit) < 0:
            kept.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    return kept


def _closed(ring: list[tuple[float, float]]) -> list[list[float]]:
    """A GeoJSON ring, which ends where it began; 7 decimals are a centimetre."""
    return [[round(x, 7), round(y, 7)] for x, y in [*ring, ring[0]]]
