"""Georeferenced scenes (GeoTIFF, COG, JPEG 2000, VRT) as overlapping RGB chips, read window by window.

No pixels are copied to disk: a chip is a window of its file, with its place on the ground. Needs rasterio
(`pip install "modeling-pir[geo]"`).
"""

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..extras import need
from ..inference.images import MAX_PIXELS
from .footprint import Bounds, Window, window_geometry
from .sensors import check_bands, date_and_sensor, guess_bands

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
STRETCH_PERCENTILES = (2, 98)  # of a band's valid values in an overview of the whole scene
OVERVIEW_SIZE = 1024  # pixels, longer side of the overview that the stretch is read from
GEO_TIFF_TAGS = (33550, 34264, 34735)  # pixel scale, transformation, key directory
SEMI_MAJOR_AXIS, ECCENTRICITY_SQUARED = 6_378_137.0, 0.00669437999014  # of the WGS84 ellipsoid; metres


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
    with Raster(path, stretch=_cached_stretch(str(path))) as scene:
        return scene.read(window, scene.fit(window, max_size))[0]


@lru_cache(maxsize=128)
def _cached_stretch(path: str) -> np.ndarray | None:
    """The stretch of a scene, found once for all its windows that are looked at."""
    with Raster(path) as scene:
        return scene.stretch


class Raster:
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
        rasterio = import_rasterio()
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
        self.date, self.sensor = date_and_sensor(dataset, Path(self.path).stem)
        color_names = [color.name for color in dataset.colorinterp]
        if color_names[0] == "palette" or dataset.dtypes[0].startswith("complex"):
            kind = "a palette" if color_names[0] == "palette" else "complex numbers"
            raise ValueError(f"{self.path} holds {kind}, no colours that can be measured: convert it to RGB first.")
        alpha = 1 + color_names.index("alpha") if "alpha" in color_names else None
        self._has_alpha = alpha is not None and self._is_mask(alpha)
        num_bands = dataset.count - (1 if self._has_alpha else 0)
        self.bands = check_bands(bands, dataset, self.path) or guess_bands(dataset, num_bands, self.sensor, self.path)
        self.pixel_size = self._pixel_size()
        self.stretch = stretch
        if stretch is None and dataset.dtypes[self.bands[0] - 1] != "uint8":
            values, valid = self._read_values(None, self.fit(None, OVERVIEW_SIZE))
            self.stretch = _percentiles(values, valid)

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *exception: object) -> None:
        self.dataset.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what GDAL says of a broken file into one sentence."""
        try:
            yield
        except import_rasterio().errors.RasterioError as error:
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
        rasterio = import_rasterio()
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
        rasterio = import_rasterio()
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
        return window_geometry(lon, lat)


def import_rasterio() -> ModuleType:
    """The rasterio package with the parts used here, or which extra brings it."""
    need("rasterio.warp", "geo", "Georeferenced scenes need")
    return need("rasterio", "geo", "Georeferenced scenes need")


def _offsets(length: int, size: int, overlap: float) -> list[int]:
    """Starts of the fewest evenly spaced spans of `size` that cover `length` and overlap at least by that share."""
    count = 1 + math.ceil((length - size) / max(1.0, size * (1 - overlap)))
    return [round(offset) for offset in np.linspace(0, length - size, count)]


def _percentiles(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(3, 2) low and high value of each band; zeros where nothing is valid."""
    if not valid.any():
        return np.zeros((3, 2))
    return np.percentile(values[:, valid].astype(np.float64), STRETCH_PERCENTILES, axis=1).T
