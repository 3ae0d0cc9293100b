"""Where the pixels of a raster lie on the ground, and how large they are there."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from .footprint import Bounds, Window, outline, window_geometry
from .opening import crs_beside, import_rasterio

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


SEMI_MAJOR_AXIS, ECCENTRICITY_SQUARED = 6_378_137.0, 0.00669437999014  # of the WGS84 ellipsoid; metres
SMALLEST_PIXEL = 0.001  # metres: below it degrees have been labelled as metres
PIXEL = attrgetter("col"), attrgetter("row")  # of a control point
PLACE = attrgetter("x"), attrgetter("y")
Points = tuple[np.ndarray, np.ndarray]


class Placement:
    """Where an open raster lies: by its transform, its ground control points or its rational polynomials.

    Args:
        dataset: open.

    Attributes:
        crs: such as "EPSG:32633", of the transform or of the control points; None where there is none.
        pixel_size: (across, down) metres on the ground at the centre; None without a place on earth, as of a
            CRS of another planet, a degenerate transform, or metres that are labelled as degrees.
    """

    def __init__(self, dataset: "DatasetReader") -> None:
        self._size = dataset.width, dataset.height
        self._crs, self._to_crs = _georeference(dataset)
        self.crs = self._crs.to_string() if self._crs else None
        self.pixel_size = self._pixel_size() if self._crs and self._lies_on_earth() else None

    def to_degrees(self, cols: np.ndarray, rows: np.ndarray) -> Points:
        """Longitudes and latitudes (WGS84) of places in the raster; infinite where the CRS knows none."""
        nowhere = np.full(len(cols), np.inf)
        try:
            x, y = self._to_crs(cols, rows)
            lon, lat = map(np.asarray, import_rasterio().warp.transform(self._crs, "EPSG:4326", x, y))
        except Exception:  # PROJ refuses places off the globe, other bodies and local systems, each in a way of its own
            return nowhere, nowhere
        return lon, lat

    def footprint(self, window: Window) -> tuple[dict | None, Bounds | None]:
        """The GeoJSON geometry and the bounds of a window, as in [`Chip`]; None where it lies nowhere on earth."""
        if self.pixel_size is None:
            return None, None
        lon, lat = self.to_degrees(*outline(window))
        if not np.isfinite([lon, lat]).all():
            return None, None
        return window_geometry(lon, lat.clip(-90, 90))  # half a pixel beyond the pole is usual in global rasters

    def _lies_on_earth(self) -> bool:
        """Whether the corners that can be placed are places: metres labelled as degrees are not."""
        width, height = self._size
        lon, lat = self.to_degrees(np.array([0, 0, width, width]), np.array([0, height, height, 0]))
        seen = np.isfinite(lon) & np.isfinite(lat)
        pole = 90 + (0.5 / height) * np.ptp(lat[seen], axis=0) + 1e-6 if seen.any() else 90
        return bool((np.abs(lat[seen]) <= pole).all() and (np.abs(lon[seen]) <= 540).all())

    def _pixel_size(self) -> tuple[float, float] | None:
        """Metres on the ground of the placed pixel nearest to the centre; None where none has a place."""
        width, height = self._size
        shares = [(x, y) for x in (0.5, 0.3, 0.7, 0.1, 0.9) for y in (0.5, 0.3, 0.7, 0.1, 0.9)]
        for x, y in sorted(shares, key=lambda share: math.dist(share, (0.5, 0.5))):
            col, row = x * width, y * height
            lon, lat = self.to_degrees(
                np.array([col - 0.5, col + 0.5, col, col]), np.array([row, row, row - 0.5, row + 0.5])
            )
            if np.isfinite([lon, lat]).all():
                places = _on_ellipsoid(lon, lat)
                across, down = math.dist(places[0], places[1]), math.dist(places[2], places[3])
                return (across, down) if min(across, down) > SMALLEST_PIXEL else None
        return None


def _georeference(dataset: "DatasetReader") -> tuple[object | None, Callable[..., Sequence[np.ndarray]]]:
    """The CRS, and a function from (cols, rows) to its coordinates; no CRS where the file has no place."""
    rasterio = import_rasterio()
    transform, crs = dataset.transform, dataset.crs
    if not transform.is_identity and (crs := crs or crs_beside(dataset.name)):
        usable = np.isfinite(transform[:6]).all() and not transform.is_degenerate
        return (crs if usable else None), lambda cols, rows: transform @ (cols, rows)
    points, crs = dataset.gcps
    if crs and _span_a_plane(points):
        points = _unwrapped(points) if crs.is_geographic else points
        transformer = rasterio.transform.GCPTransformer(points)
        return crs, lambda cols, rows: transformer.xy(rows, cols, offset="ul")
    if dataset.rpcs is not None:
        transformer = rasterio.transform.RPCTransformer(dataset.rpcs, rpc_height=dataset.rpcs.height_off)
        return rasterio.crs.CRS.from_epsg(4326), lambda cols, rows: transformer.xy(rows, cols, offset="ul")
    return None, lambda cols, rows: (cols, rows)


def _span_a_plane(points: Sequence) -> bool:
    """Whether control points say where all of a raster lies: not where they are one point or on one line."""
    if len(points) < 3:
        return False
    pixels, places = ([(a(point), b(point)) for point in points] for a, b in (PIXEL, PLACE))
    return all(np.linalg.matrix_rank(np.array(own) - own[0]) == 2 for own in (pixels, places))


def _unwrapped(points: Sequence) -> list:
    """Control points whose longitudes do not jump at the antimeridian."""
    west = min(point.x for point in points)
    if max(point.x for point in points) - west <= 180:
        return list(points)
    control_point = import_rasterio().control.GroundControlPoint
    return [control_point(point.row, point.col, point.x + (360 if point.x < 0 else 0), point.y) for point in points]


def _on_ellipsoid(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(points, 3) metres from the earth's centre, where distances are right at the poles as well."""
    lon, lat = np.radians(lon), np.radians(lat)
    normal = SEMI_MAJOR_AXIS / np.sqrt(1 - ECCENTRICITY_SQUARED * np.sin(lat) ** 2)
    x, y = normal * np.cos(lat) * np.cos(lon), normal * np.cos(lat) * np.sin(lon)
    return np.stack([x, y, normal * (1 - ECCENTRICITY_SQUARED) * np.sin(lat)], axis=-1)
