"""The outline of a window as GeoJSON: across the antimeridian, around a pole, along curved edges."""

import math

import numpy as np

Window = tuple[int, int, int, int]  # col_off, row_off, width, height in pixels of the file
Bounds = tuple[float, float, float, float]  # west, south, east, north in degrees (WGS84)
Ring = list[tuple[float, float]]
EDGE_POINTS = 21  # of an edge between its corners, as rasterio's `densify_pts`
STRAIGHT = 1e-3  # of a window's extent: an edge that bends less is drawn by its two corners
AT_POLE = 90 - 1e-9  # degrees of latitude


def outline(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows around a window, from its upper left corner down, `EDGE_POINTS` between two corners."""
    col, row, width, height = window
    share = np.arange(EDGE_POINTS + 1) / (EDGE_POINTS + 1)
    none, all_ = np.zeros_like(share), np.ones_like(share)
    x = np.concatenate([none, share, all_, 1 - share])
    y = np.concatenate([share, all_, 1 - share, none])
    return col + width * x, row + height * y


def window_geometry(lon: np.ndarray, lat: np.ndarray) -> tuple[dict, Bounds]:
    """GeoJSON geometry and bounds of what an outline surrounds.

    Args:
        lon: (points,) degrees, any turn, in the order of [`outline`].
        lat: (points,) degrees.

    Returns:
        A Polygon, or a MultiPolygon of its parts on both sides of the antimeridian; rings run counter-clockwise.
        Around a pole the polygon runs along the antimeridian to the pole and back.
    """
    lon, lat, is_corner = _continuous(lon, lat)
    turns = _step(lon[-1], lon[0]) + lon[-1] - lon[0]
    if abs(turns) > 180:
        return _around_pole(lon, lat, turns)
    ring = _simplified(lon, lat, is_corner)
    lon = lon - 360 * math.floor((lon.min() + 180 + 1e-9) / 360)  # west edge in [-180, 180)
    ring = [(x, y) for x, y in zip(lon[ring].tolist(), lat[ring].tolist(), strict=True)]
    ring = ring if _area(ring) > 0 else ring[::-1]
    west, south, east, north = float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())
    if east - west >= 360 - 1e-6:
        ring = [(-180.0, south), (180.0, south), (180.0, north), (-180.0, north)]
        return {"type": "Polygon", "coordinates": [_closed(ring)]}, (-180.0, south, 180.0, north)
    if east <= 180 + 1e-9:
        return {"type": "Polygon", "coordinates": [_closed(ring)]}, (max(west, -180.0), south, min(east, 180.0), north)
    west_part, east_part = _cut(ring, 180.0, 1), [(x - 360, y) for x, y in _cut(ring, 180.0, -1)]
    geometry = {"type": "MultiPolygon", "coordinates": [[_closed(west_part)], [_closed(east_part)]]}
    return geometry, (west, south, east - 360, north)


def _step(start: float, end: float) -> float:
    """The way from one longitude to another, the shorter one round; -180 to below 180 degrees."""
    return (end - start + 180) % 360 - 180


def _continuous(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An outline whose longitudes do not jump, and which of its points are corners.

    A single point at a pole has no longitude: it becomes two, one below each of its neighbours' meridians. A row of
    points at a pole is the edge of a raster in degrees, and keeps its longitudes.
    """
    count = len(lon)
    corners = np.arange(count) % (EDGE_POINTS + 1) == 0
    at_pole = np.abs(lat) > AT_POLE
    single = at_pole & ~np.roll(at_pole, 1) & ~np.roll(at_pole, -1)
    if single[0]:  # begin elsewhere
        lon, lat, corners, single = (np.roll(values, -1) for values in (lon, lat, corners, single))
    points = []  # longitude, latitude, whether it is a corner
    for place in range(count):
        if single[place]:
            points.append((lon[place - 1], lat[place], True))
            points.append((lon[(place + 1) % count], lat[place], True))
        else:
            points.append((lon[place], lat[place], bool(corners[place])))
    steps = np.array([_step(start[0], end[0]) for start, end in zip(points, points[1:], strict=False)])
    half = np.abs(np.abs(steps) - 180) < 1e-6  # over the pole along a meridian: either way round is as short
    if half.any():
        last = _step(points[-1][0], points[0][0])
        steps[half] = np.where(steps[~half].sum() + last > 0, -180.0, 180.0)
    lon = points[0][0] + np.concatenate([[0.0], np.cumsum(steps)])
    return lon, np.array([point[1] for point in points]), np.array([point[2] for point in points])


def _around_pole(lon: np.ndarray, lat: np.ndarray, turns: float) -> tuple[dict, Bounds]:
    """The geometry of an outline that runs once round a pole."""
    pole = 90.0 if lat.mean() > 0 else -90.0
    if turns < 0:
        lon, lat = lon[::-1], lat[::-1]
    order = np.argsort((lon + 180) % 360)  # eastwards from the antimeridian
    lon, lat = (lon[order] + 180) % 360 - 180, lat[order]
    gap = lon[0] + 360 - lon[-1]
    share = (180 - lon[-1]) / gap if gap else 0.0
    at_cut = float(lat[-1] + share * (lat[0] - lat[-1]))
    ring = [(-180.0, pole), (-180.0, at_cut), *zip(lon.tolist(), lat.tolist(), strict=True), (180.0, at_cut)]
    ring.append((180.0, pole))
    ring = ring if _area(ring) > 0 else ring[::-1]
    lowest, highest = float(lat.min()), float(lat.max())
    bounds = (-180.0, lowest, 180.0, 90.0) if pole > 0 else (-180.0, -90.0, 180.0, highest)
    return {"type": "Polygon", "coordinates": [_closed(ring)]}, bounds


def _simplified(lon: np.ndarray, lat: np.ndarray, is_corner: np.ndarray) -> np.ndarray:
    """Places of the points that are drawn: corners, and those of edges that are bent."""
    tolerance = STRAIGHT * max(np.ptp(lon), np.ptp(lat))
    count = len(lon)
    keep = is_corner.copy()
    corners = np.flatnonzero(is_corner)
    for start, end in zip(corners, np.append(corners[1:], corners[0] + count), strict=True):
        inner = np.arange(start + 1, end) % count
        if not len(inner):
            continue
        share = np.arange(1, len(inner) + 1) / (len(inner) + 1)
        away = [
            values[inner] - (values[start] + share * (values[end % count] - values[start])) for values in (lon, lat)
        ]
        if np.hypot(*away).max() > tolerance:
            keep[inner] = True
    return np.flatnonzero(keep)


def _area(ring: Ring) -> float:
    """Twice the signed area; positive where the ring runs counter-clockwise."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True))


def _cut(ring: Ring, limit: float, side: int) -> Ring:
    """The part of a ring with x <= limit (side 1) or x >= limit (side -1)."""
    kept = []
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        if side * x0 <= side * limit:
            kept.append((x0, y0))
        if (x0 - limit) * (x1 - limit) < 0:
            kept.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    return kept


def _closed(ring: Ring) -> list[list[float]]:
    """A GeoJSON ring, which ends where it began; 7 decimals are a centimetre."""
    return [[round(x, 7), round(y, 7)] for x, y in [*ring, ring[0]]]
