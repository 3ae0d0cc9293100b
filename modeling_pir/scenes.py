"""Georeferenced scenes (GeoTIFF, COG, JPEG 2000, VRT) as overlapping RGB chips, read window by window.

No pixels are copied to disk: a chip is a window of its file, with its place on the ground. Needs rasterio
(`pip install "modeling-pir[geo]"`).
"""

import math
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .images import MAX_PIXELS

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Window = tuple[int, int, int, int]  # col_off, row_off, width, height in pixels of the file
Bounds = tuple[float, float, float, float]  # west, south, east, north in degrees (WGS84)

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
STRETCH_PERCENTILES = (2, 98)  # of a band's valid values in an overview of the whole scene
OVERVIEW_SIZE = 1024  # pixels, longer side of the overview that the stretch is read from
GEO_TIFF_TAGS = (33550, 34264, 34735)  # pixel scale, transformation, key directory
SEMI_MAJOR_AXIS, ECCENTRICITY_SQUARED = 6_378_137.0, 0.00669437999014  # of the WGS84 ellipsoid; metres

SENSOR_TAGS = ("satelliteid", "spacecraft_id", "satellite", "platform", "sensor", "sensor_name")
DATE_TAGS = ("acquisitiondatetime", "acquisition_date", "date_acquired", "datetime")
SENSOR_PATTERNS = (  # of a lower-case file name or tag; {} takes the mission's number
    (r"landsat[-_ ]?0?([1-9])(?!\d)", "Landsat-{}"),
    (r"^l[cotem]0?([1-9])[_\d]", "Landsat-{}"),
    (r"landsat", "Landsat"),
    (r"sentinel[-_ ]?([12])|^s([12])[abc]_", "Sentinel-{}"),
    (r"^t\d\d[a-z]{3}_\d{8}t\d{6}", "Sentinel-2"),
    (r"naip|national agriculture imagery|^m_\d{7}_[ns][ew]_", "NAIP"),
    (r"planetscope|_3b_(?:analytic|visual)", "PlanetScope"),
    (r"(?<![a-z])hro(?![a-z])", "USGS HRO"),
    (r"(?<![a-z])neon(?![a-z])", "NEON AOP"),
)
BAND_ORDERS = (  # sensor, numbers of bands, where red, green and blue are; the first that fits
    (r"Landsat-[89]", range(7, 12), (4, 3, 2)),  # band 1 is the coastal one
    (r"Landsat", range(6, 9), (3, 2, 1)),
    (r"Sentinel-2", (12, 13), (4, 3, 2)),
    (r"Sentinel-2", (4, 10), (3, 2, 1)),  # without the 60 m bands
    (r"PlanetScope", (4, 5), (3, 2, 1)),
    (r"PlanetScope", (8,), (6, 4, 2)),
    (r"", (1, 2), (1, 1, 1)),
    (r"", (3, 4), (1, 2, 3)),  # 4: near infrared last, as NAIP
    (r"", (5, 6), (3, 2, 1)),  # by wavelength, as the sensors that deliver so many
)


@dataclass
class Chip:
    """A window of a scene.

    Attributes:
        image: 8-bit RGB, square.
        window: (col_off, row_off, width, height) in pixels of the file.
        footprint: GeoJSON geometry in WGS84, a MultiPolygon where the antimeridian cuts it; None without a place.
        bounds: (west, south, east, north) in degrees; west is larger than east where the footprint crosses the
            antimeridian, as in GeoJSON (RFC 7946, section 5.2). None without a place.
        crs: of the file, such as "EPSG:32633"; None where it has none.
        date: "YYYY-MM-DD", or "YYYY" where only the year is known; None where the file does not tell.
        sensor: such as "Landsat-8"; None where the file does not tell.
    """

    image: Image.Image
    window: Window
    footprint: dict | None
    bounds: Bounds | None
    crs: str | None
    date: str | None
    sensor: str | None


def iter_chips(
    path: str | Path,
    chip_size: int = 224,
    ground_resolution: float | None = None,
    overlap: float = 0.25,
    bands: Sequence[int] | None = None,
    max_nodata: float = 0.5,
) -> Iterator[Chip]:
    """Cut a scene into overlapping square chips, row by row, the last ones flush with the edges.

    Args:
        path: a raster that GDAL reads, an address such as `s3://...` included; anything from a COG to a JPEG.
        chip_size: pixels of a chip's side. A scene that is smaller gives smaller chips.
        ground_resolution: metres on the ground per pixel of a chip; overviews are read where the file has them. A
            file that is coarser keeps its own resolution, and so does one without a place. None: the file's own.
        overlap: share of a chip's side, 0 to below 1, that neighbours share at least.
        bands: numbers from 1 of the bands that are red, green and blue. None finds them in the file's colour
            interpretation, band descriptions, sensor or number of bands.
        max_nodata: chips with a larger share of nodata pixels, 0 to 1, are skipped. Where a file declares no nodata,
            pixels of which all three bands are 0 count.

    Yields:
        [`Chip`]s. 8-bit values stay as they are; others are stretched between the scene's `STRETCH_PERCENTILES`, band
        by band, the same for all chips of the scene.

    Raises:
        ValueError: an option out of range, a file that cannot be read, bands that cannot be told, or no chip at all.
        ImportError: rasterio is missing.
    """
    if chip_size < 1:
        raise ValueError(f"chip_size is {chip_size}, but it has to be at least 1 pixel.")
    if ground_resolution is not None and not 0 < ground_resolution < math.inf:
        raise ValueError(f"ground_resolution is {ground_resolution}, but it has to be above 0 metres per pixel.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}, but it is a share of a chip's side: at least 0 and below 1.")
    if not 0 <= max_nodata <= 1:
        raise ValueError(f"max_nodata is {max_nodata}, but it is a share of a chip's pixels: between 0 and 1.")
    _import_rasterio()
    return _chips(path, chip_size, ground_resolution, overlap, bands, max_nodata)


def _chips(
    path: str | Path,
    chip_size: int,
    ground_resolution: float | None,
    overlap: float,
    bands: Sequence[int] | None,
    max_nodata: float,
) -> Iterator[Chip]:
    """[`iter_chips`] after its checks."""
    num_windows = num_chips = 0
    with Scene(path, bands) as scene:
        windows, size = scene.windows(chip_size, ground_resolution, overlap)
        for window in windows:
            num_windows += 1
            image, valid = scene.read(window, (size, size))
            if valid.any() and 1 - valid.mean() <= max_nodata:
                num_chips += 1
                yield Chip(image, window, *scene.footprint(window), scene.crs, scene.date, scene.sensor)
    if not num_chips:
        raise ValueError(
            f"{path} gives no chip: more than {max_nodata:.0%} of each of its {num_windows} windows is nodata, so "
            "leave the file out or raise max_nodata."
        )


def is_georaster(path: str | Path) -> bool:
    """Whether a file is to be cut into chips by [`iter_chips`] instead of being opened as one plain image.

    Reads a TIFF's header only, and needs no rasterio.

    Args:
        path: of a local file.

    Returns:
        True for JPEG 2000 and VRT, for a TIFF with a place on the ground (tags or a world file), and for a TIFF that
        plain readers do not open: many bands, several bands of more than 8 bits, or more than `MAX_PIXELS`. False for
        all else, a broken TIFF included: opening it as an image says what is wrong.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".tif", ".tiff"):
        return suffix in RASTER_SUFFIXES
    tags = _tiff_tags(path)
    if tags is None:
        return False
    if any(tag in tags for tag in GEO_TIFF_TAGS) or path.with_suffix(".tfw").exists():
        return True
    num_bands, bits = tags.get(277, 1), tags.get(258, (1,))
    is_plain = num_bands == 1 or (num_bands <= 4 and set(bits) == {8})
    return not is_plain or tags.get(256, 0) * tags.get(257, 0) > MAX_PIXELS


def _tiff_tags(path: Path) -> dict | None:
    """The tags of a TIFF's first image; None where it is no TIFF or its header is broken."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PIL's, of a truncated header
            start = file.read(8)
            if start[2:4] in (b"+\0", b"\0+"):  # BigTIFF, whose offsets have 8 bytes
                start += file.read(8)
            directory = ImageFileDirectory_v2(start)
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, struct.error):
        return None


def read_window(path: str | Path, window: Window | None = None, max_size: int = 512) -> Image.Image:
    """Read a part of a scene to look at, in the colours of its chips.

    Args:
        path: see [`iter_chips`].
        window: (col_off, row_off, width, height) in pixels of the file; None for the whole scene.
        max_size: pixels; a larger window is read at a lower resolution.

    Returns:
        8-bit RGB, its longer side at most `max_size`.

    Raises:
        ValueError: a file that cannot be read, or bands that cannot be told.
        ImportError: rasterio is missing.
    """
    with Scene(path, stretch=_cached_stretch(str(path))) as scene:
        return scene.read(window, scene.fit(window, max_size))[0]


@lru_cache(maxsize=128)
def _cached_stretch(path: str) -> np.ndarray | None:
    """The stretch of a scene, found once for all its windows that are looked at."""
    with Scene(path) as scene:
        return scene.stretch


class Scene:
    """An open raster that reads RGB and knows where its windows lie on the ground; a context manager.

    Args:
        path: see [`iter_chips`].
        bands: see [`iter_chips`].
        stretch: that of an earlier opening; None finds it in an overview.

    Attributes:
        width: pixels.
        height: pixels.
        transform: affine transform from (col, row) to the CRS, rotation included.
        crs: such as "EPSG:32633"; None where the file has none.
        bands: numbers of the red, green and blue band.
        stretch: (3, 2) float, the values that become 0 and 255 in each band; None for 8 bits.
        date: see [`Chip`].
        sensor: see [`Chip`].
        pixel_size: (across, down) metres on the ground at the scene's centre; None without a place.

    Raises:
        ValueError: a file that cannot be read, or bands that cannot be told.
        ImportError: rasterio is missing.
    """

    def __init__(self, path: str | Path, bands: Sequence[int] | None = None, stretch: np.ndarray | None = None) -> None:
        rasterio = _import_rasterio()
        self.path = path
        with self._readable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # no footprint says it
            self.dataset = rasterio.open(path)
        try:
            self._describe(bands, stretch)
        except BaseException:
            self.dataset.close()
            raise

    def _describe(self, bands: Sequence[int] | None, stretch: np.ndarray | None) -> None:
        """Find out what holds for all windows."""
        dataset = self.dataset
        self.width, self.height, self.transform = dataset.width, dataset.height, dataset.transform
        self.crs = dataset.crs.to_string() if dataset.crs else None
        self.date, self.sensor = _date_and_sensor(dataset, Path(self.path).stem)
        color_names = [color.name for color in dataset.colorinterp]
        if color_names[0] == "palette" or dataset.dtypes[0].startswith("complex"):
            kind = "a palette" if color_names[0] == "palette" else "complex numbers"
            raise ValueError(f"{self.path} holds {kind}, no colours that can be measured: convert it to RGB first.")
        alpha = 1 + color_names.index("alpha") if "alpha" in color_names else None
        self._has_alpha = alpha is not None and self._is_mask(alpha)
        num_bands = dataset.count - (1 if self._has_alpha else 0)
        self.bands = _check_bands(bands, dataset, self.path) or guess_bands(dataset, num_bands, self.sensor, self.path)
        self.pixel_size = self._pixel_size()
        self.stretch = stretch
        if stretch is None and dataset.dtypes[self.bands[0] - 1] != "uint8":
            values, valid = self._read_values(None, self.fit(None, OVERVIEW_SIZE))
            self.stretch = _percentiles(values, valid)

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *exception: object) -> None:
        self.dataset.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what GDAL says of a broken file into one sentence."""
        try:
            yield
        except _import_rasterio().errors.RasterioError as error:
            reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
            raise ValueError(f"{self.path} cannot be read ({reason}): remove it or replace it.") from error

    def _is_mask(self, band: int) -> bool:
        """Whether a band called alpha is a mask (nothing or all) and no mislabelled fourth colour."""
        with self._readable():
            width, height = self.fit(None, OVERVIEW_SIZE)
            values = self.dataset.read(band, out_shape=(height, width))
        return bool(np.isin(values, (0, values.max())).mean() > 0.9)

    def fit(self, window: Window | None, max_size: int) -> tuple[int, int]:
        """(width, height) of a window, or of the scene, shrunk to a longer side of at most `max_size` pixels."""
        width, height = (self.width, self.height) if window is None else window[2:]
        shrink = min(1.0, max_size / max(width, height))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def read(self, window: Window | None = None, size: tuple[int, int] | None = None) -> tuple[Image.Image, np.ndarray]:
        """Read a window at a resolution.

        Args:
            window: None for the whole scene.
            size: (width, height) of the result in pixels; None for the window's own.

        Returns:
            An 8-bit RGB image and (height, width) bool: where there is data.

        Raises:
            ValueError: the file is broken there.
        """
        values, valid = self._read_values(window, size)  # (3, height, width)
        if self.stretch is not None:
            low, high = self.stretch[:, 0, None, None], self.stretch[:, 1, None, None]
            scaled = (values.astype(np.float64) - low) * (255 / np.where(high > low, high - low, 1))
            values = np.where(valid, scaled, 0).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))), valid

    def _read_values(self, window: Window | None, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        """The file's own values of red, green and blue, and where they are data."""
        rasterio = _import_rasterio()
        width, height = size or self.fit(window, max(self.width, self.height))
        part = None if window is None else rasterio.windows.Window(*window)
        options = {"window": part, "out_shape": (3, height, width)}
        flags = self.dataset.mask_flag_enums[self.bands[0] - 1]
        is_alpha = rasterio.enums.MaskFlags.alpha in flags
        with self._readable():
            average = rasterio.enums.Resampling.average
            values = self.dataset.read(list(self.bands), resampling=average, **options)
            if rasterio.enums.MaskFlags.all_valid in flags or (is_alpha and not self._has_alpha):
                valid = (values != 0).any(axis=0)
            else:
                valid = self.dataset.read_masks(list(self.bands), **options).any(axis=0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        return values, valid

    def _pixel_size(self) -> tuple[float, float] | None:
        """Metres on the ground of the pixel in the centre, across and down; None without a place."""
        if self.crs is None or self.transform.is_identity:
            return None
        col, row = self.width / 2, self.height / 2
        lon, lat = self._to_degrees([(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)])
        if not np.isfinite(lon).all():  # a CRS that is tied to no place on earth
            return None
        curvature = 1 - ECCENTRICITY_SQUARED * math.sin(math.radians(lat[0])) ** 2
        east = SEMI_MAJOR_AXIS / math.sqrt(curvature) * math.cos(math.radians(lat[0]))  # metres per radian
        north = SEMI_MAJOR_AXIS * (1 - ECCENTRICITY_SQUARED) / curvature**1.5
        across, down = (
            math.hypot(math.radians((lon[end] - lon[start] + 180) % 360 - 180) * east,
                       math.radians(lat[end] - lat[start]) * north)
            for start, end in ((0, 1), (2, 3))
        )  # fmt: skip
        return across, down

    def _to_degrees(self, pixels: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes (WGS84) of (col, row) places; infinite where the CRS knows none."""
        rasterio = _import_rasterio()
        a, b, c, d, e, f = self.transform[:6]
        x = [a * col + b * row + c for col, row in pixels]
        y = [d * col + e * row + f for col, row in pixels]
        try:
            lon, lat = rasterio.warp.transform(self.dataset.crs, "EPSG:4326", x, y)
        except rasterio.errors.CRSError:
            return np.full(len(x), np.inf), np.full(len(x), np.inf)
        return np.asarray(lon), np.asarray(lat)

    def windows(
        self, chip_size: int, ground_resolution: float | None = None, overlap: float = 0.25
    ) -> tuple[list[Window], int]:
        """Where the chips lie: windows of one size that are square on the ground and cover the scene.

        Args:
            chip_size: see [`iter_chips`].
            ground_resolution: see [`iter_chips`].
            overlap: see [`iter_chips`].

        Returns:
            The windows, row by row, and the side in pixels that each is to be read at.
        """
        across, down = self.pixel_size or (1.0, 1.0)
        resolution = max(across, down, (ground_resolution or 0.0) if self.pixel_size else 0.0)
        width, height = chip_size * resolution / across, chip_size * resolution / down
        shrink = min(1.0, self.width / width, self.height / height)
        width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
        cols, rows = _offsets(self.width, width, overlap), _offsets(self.height, height, overlap)
        return [(col, row, width, height) for row in rows for col in cols], max(1, round(chip_size * shrink))

    def footprint(self, window: Window) -> tuple[dict | None, Bounds | None]:
        """The GeoJSON geometry and the bounds of a window, as in [`Chip`]; its edges are taken as straight."""
        if self.pixel_size is None:
            return None, None
        col, row, width, height = window
        corners = [(col, row), (col, row + height), (col + width, row + height), (col + width, row)]
        lon, lat = self._to_degrees(corners)
        if not np.isfinite(lon).all():
            return None, None
        return _geometry(lon, lat)


def _import_rasterio() -> ModuleType:
    """The rasterio package with the parts used here, or which extra brings it."""
    try:
        import rasterio
        import rasterio.warp
    except ImportError as error:
        raise ImportError("Georeferenced scenes need rasterio: pip install 'modeling-pir[geo]'.") from error
    return rasterio


def _offsets(length: int, size: int, overlap: float) -> list[int]:
    """Starts of the fewest evenly spaced spans of `size` that cover `length` and overlap at least by that share."""
    count = 1 + math.ceil((length - size) / max(1.0, size * (1 - overlap)))
    return [round(offset) for offset in np.linspace(0, length - size, count)]


def _percentiles(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(3, 2) low and high value of each band; zeros where nothing is valid."""
    if not valid.any():
        return np.zeros((3, 2))
    return np.percentile(values[:, valid].astype(np.float64), STRETCH_PERCENTILES, axis=1).T


def _geometry(lon: np.ndarray, lat: np.ndarray) -> tuple[dict, Bounds]:
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


def _check_bands(bands: Sequence[int] | None, dataset: "DatasetReader", path: str | Path) -> tuple[int, ...] | None:
    """The declared bands if the file has them; None where none are declared."""
    if bands is not None and (len(bands) != 3 or not all(1 <= band <= dataset.count for band in bands)):
        raise ValueError(
            f"bands is {tuple(bands)}, but {path} has {dataset.count} bands: name three of them, red, green and blue, "
            "counted from 1."
        )
    return None if bands is None else tuple(int(band) for band in bands)


def guess_bands(dataset: "DatasetReader", num_bands: int, sensor: str | None, path: str | Path) -> tuple[int, int, int]:
    """Find red, green and blue: by colour interpretation, then description, then sensor and number of bands.

    Args:
        dataset: an open raster.
        num_bands: without an alpha band.
        sensor: as in [`Chip`].
        path: what an error calls the file.

    Returns:
        Three band numbers from 1; one band three times for greyscale.

    Raises:
        ValueError: nothing tells.
    """
    is_old_landsat = bool(sensor and re.match(r"Landsat-[4-7]", sensor))
    number_of = {"red": 3, "green": 2, "blue": 1} if is_old_landsat else {"red": 4, "green": 3, "blue": 2}
    interpreted = {color.name: band for band, color in enumerate(dataset.colorinterp, start=1)}
    described = {}
    for band, description in enumerate(dataset.descriptions, start=1):
        text = (description or "").lower()
        number = re.search(r"(?:^|[^a-z])b(?:and)?[ _]?0*(\d+)$", text)
        for color in number_of:
            named = re.search(rf"(?<![a-z]){color}(?![a-z])", text) and not re.search("edge|infra|nir", text)
            if named or (number and int(number[1]) == number_of[color]):
                described.setdefault(color, band)
    for found in (interpreted, described):
        if set(number_of) <= set(found):
            return found["red"], found["green"], found["blue"]
    for pattern, counts, order in BAND_ORDERS:
        if num_bands in counts and re.match(pattern, sensor or ""):
            return order
    raise ValueError(
        f"{path} has {num_bands} bands and does not tell which are red, green and blue: name them, such as "
        "bands=(4, 3, 2)."
    )


def _date_and_sensor(dataset: "DatasetReader", name: str) -> tuple[str | None, str | None]:
    """When and by what a scene was taken: by its tags, else by its file name.

    TIFFTAG_DATETIME comes last, since many programs write there when the file was made.
    """
    tags = {key.lower(): str(value) for key, value in (dataset.tags() | dataset.tags(ns="IMAGERY")).items()}
    declared = next((tags[tag] for tag in SENSOR_TAGS if tags.get(tag)), None)
    described = f"{name}\n{tags.get('tifftag_imagedescription', '')}"
    sensor = (find_sensor(declared) or declared) if declared else find_sensor(described)
    dates = [find_date(tags[tag]) for tag in DATE_TAGS if tag in tags]
    dates += [find_date(name, with_year=sensor is not None), find_date(tags.get("tifftag_datetime", ""))]
    return next((found for found in dates if found), None), sensor


def find_sensor(text: str) -> str | None:
    """The sensor that a file name or tag speaks of, by `SENSOR_PATTERNS`; None where it speaks of none."""
    for pattern, sensor in SENSOR_PATTERNS:
        match = re.search(pattern, text.lower(), flags=re.MULTILINE)
        if match:
            return sensor.format(next((group for group in match.groups() if group), ""))
    return None


def find_date(text: str, with_year: bool = False) -> str | None:
    """The first date that a file name or tag speaks of.

    Args:
        text: such as "m_3607717_sw_18_1_20160620" or "LC80150342013162LGN00" (year and day of the year).
        with_year: whether a year standing alone counts; only a text known to speak of a sensor's scene earns it.

    Returns:
        "YYYY-MM-DD", "YYYY", or None. Only dates from 1900 until today count.
    """
    found = []
    for match in re.finditer(r"(?<!\d)(\d{4})([-:/._]?)(\d\d)\2(\d\d)(?!\d)", text):
        found.append((match[1], match[3], match[4]))
    landsat = re.search(r"^L[COTEM]\d{7}(\d{4})(\d{3})[A-Z]{3}\d\d", text)
    if landsat:
        day = date(int(landsat[1]), 1, 1) + timedelta(days=int(landsat[2]) - 1)
        found.append((str(day.year), f"{day.month:02}", f"{day.day:02}"))
    for parts in found:
        try:
            day = date(*map(int, parts))
        except ValueError:  # eight digits that are no day, such as a tile's number
            continue
        if date(1900, 1, 1) <= day <= date.today():
            return day.isoformat()
    years = re.findall(r"(?<![^\W_])(\d{4})(?![^\W_])", text) if with_year else []
    return next((year for year in years if 1900 <= int(year) <= date.today().year), None)
