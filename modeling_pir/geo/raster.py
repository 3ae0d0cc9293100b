"""Georeferenced scenes (GeoTIFF, COG, JPEG 2000, any image with a world file), read as RGB window by window.

No pixels are copied to disk: a chip is a window of its file, with its place on the ground. Needs rasterio
(`pip install "modeling-pir[geo]"`).
"""

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ..inference.images import IMAGE_SUFFIXES, MAX_PIXELS, open_image
from .footprint import Bounds, Window
from .opening import import_rasterio, open_dataset, readable
from .placement import Placement
from .sensors import check_bands, date_and_sensor, guess_bands, names_colors
from .side_files import has_place_beside, tiff_tags
from .values import bit_range, color_table, find_fill_values, find_stretch, stretched

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
OVERVIEW_SIZE = 1024  # pixels, longer side of the overview that the stretch is read from
SCENE_SIGNATURES = {b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif", b"\0\0\0\x0cjP  ": ".jp2"}
GEO_TIFF_TAGS = (33550, 33922, 34264, 34735, 50844)  # pixel scale, tie points, transformation, keys, polynomials


def is_georaster(path: str | Path) -> bool:
    """Whether a file is to be cut into chips by [`iter_chips`] instead of being opened as one plain image.

    Reads a TIFF's header and side files only, and needs no rasterio.

    Args:
        path: of a local file.

    Returns:
        True for JPEG 2000 and VRT, for an image with a place on the ground (tags, a world file, an `.aux.xml`), and
        for a TIFF that plain readers do not open: many bands, several bands of more than 8 bits, or more than
        `MAX_PIXELS`. False for all else, a broken TIFF included: opening it as an image says what is wrong.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".tif", ".tiff"):
        return suffix in RASTER_SUFFIXES or (suffix in IMAGE_SUFFIXES and has_place_beside(path))
    tags = tiff_tags(path)
    if tags is None:
        return False
    if any(tag in tags for tag in GEO_TIFF_TAGS) or has_place_beside(path):
        return True
    try:
        num_bands, bits = tags.get(277, 1), tags.get(258, (1,))
        is_plain = num_bands == 1 or (num_bands <= 4 and set(bits) == {8})
        return not is_plain or tags.get(256, 0) * tags.get(257, 0) > MAX_PIXELS
    except TypeError:  # a mutated header, whose counts are text
        return False


def open_as_image(
    path: str | Path,
    bands: Sequence[int] | None = None,
    allow_references: bool = False,
    usual_bands: Sequence[int] | None = None,
) -> Image.Image:
    """Open a file as one picture, as a query or to be looked at: a scene in the colours of its chips, or any image.

    Args:
        path: of a file.
        bands: of a scene, see [`iter_chips`].
        allow_references: see [`open_dataset`].
        usual_bands: red, green and blue of scenes like this one, such as those of an index: taken if the file has
            them and names none itself.

    Returns:
        8-bit RGB; of a scene at most `OVERVIEW_SIZE` pixels wide and high.

    Raises:
        ValueError: a file that cannot be read, or bands that cannot be told.
        ImportError: a scene, and rasterio is missing.
    """
    if not is_georaster(path):
        return open_image(path)
    if bands is None and usual_bands is not None:
        with open_dataset(path, allow_references) as dataset:
            bands = usual_bands if max(usual_bands) <= dataset.count and not names_colors(dataset) else None
    return read_window(path, None, OVERVIEW_SIZE, bands, allow_references)


def open_content_as_image(
    content: bytes, name: str, max_pixels: int, usual_bands: Sequence[int] | None = None
) -> Image.Image:
    """Open the content of a file that was sent as one picture: a scene as [`open_as_image`] does, or any image.

    Args:
        content: of a file.
        name: what errors call it.
        max_pixels: of a scene; a larger one is refused before it is decoded.
        usual_bands: see [`open_as_image`].

    Returns:
        8-bit RGB.

    Raises:
        ValueError: content that cannot be read, or too many pixels.
        ImportError: a scene, and rasterio is missing.
    """
    suffix = next((suffix for magic, suffix in SCENE_SIGNATURES.items() if content.startswith(magic)), None)
    if suffix is None:
        return open_image(content, name)
    with TemporaryDirectory() as folder:  # alone there, without any side file
        path = os.path.join(folder, f"picture{suffix}")
        Path(path).write_bytes(content)
        try:
            if not is_georaster(path):
                return open_image(content, name)
            with open_dataset(path) as dataset:
                if dataset.width * dataset.height > max_pixels:
                    raise ValueError(
                        f"{path} has {dataset.width} x {dataset.height} pixels, more than the {max_pixels:,} that are "
                        "read here: make it smaller or cut a part out of it."
                    )
            return open_as_image(path, usual_bands=usual_bands)
        except ValueError as error:
            raise ValueError(str(error).replace(path, name)) from error


def read_window(
    path: str | Path,
    window: Window | None = None,
    max_size: int = 512,
    bands: Sequence[int] | None = None,
    allow_references: bool = False,
) -> Image.Image:
    """Read a part of a scene to look at, in the colours of its chips.

    Args:
        path: see [`iter_chips`].
        window: (col_off, row_off, width, height) in pixels of the file; None for the whole scene.
        max_size: pixels; a larger window is read at a lower resolution.
        bands: see [`iter_chips`].
        allow_references: see [`open_dataset`].

    Returns:
        8-bit RGB, its longer side at most `max_size`.

    Raises:
        ValueError: a file that cannot be read, or bands that cannot be told.
        ImportError: rasterio is missing.
    """
    bands = None if bands is None else tuple(bands)
    changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else None
    known = _cached_stretch(str(path), changed, bands, allow_references)
    with Raster(path, bands, known, allow_references) as scene:
        return scene.read(window, scene.fit(window, max_size))[0]


@lru_cache(maxsize=128)
def _cached_stretch(
    path: str, changed: int | None, bands: tuple[int, ...] | None, allow_references: bool
) -> tuple[np.ndarray | None, list[float]]:
    """The stretch and the fill values of a scene, found once for all its windows until the file is changed."""
    with Raster(path, bands, allow_references=allow_references) as scene:
        return scene.stretch, scene.fill_values


class Raster:
    """An open raster that reads RGB and knows where its windows lie on the ground; a context manager.

    Args:
        path: see [`iter_chips`].
        bands: see [`iter_chips`].
        known: stretch and fill values of an earlier opening; None finds them in an overview.
        allow_references: see [`open_dataset`].

    Attributes:
        width: pixels.
        height: pixels.
        transform: affine transform from (col, row) to the CRS, rotation included.
        crs: such as "EPSG:32633"; None where the file has none.
        bands: numbers of the red, green and blue band; of a palette its band three times.
        stretch: (3, 2) float, the values that become 0 and 255 in each band; None for 8 bits.
        fill_values: what counts as no data though the file does not declare it.
        date: see [`Chip`].
        sensor: see [`Chip`].
        pixel_size: (across, down) metres on the ground at the scene's centre; None without a place.

    Raises:
        ValueError: a file that cannot be read, or bands that cannot be told.
        ImportError: rasterio is missing.
    """

    def __init__(
        self,
        path: str | Path,
        bands: Sequence[int] | None = None,
        known: tuple[np.ndarray | None, list[float]] | None = None,
        allow_references: bool = False,
    ) -> None:
        self.path = path
        self.dataset = open_dataset(path, allow_references)
        try:
            with readable(path):
                self._describe(bands)
                self.stretch, self.fill_values = self._find_stretch() if known is None else known
        except BaseException:
            self.dataset.close()
            raise

    def _describe(self, bands: Sequence[int] | None) -> None:
        """Find out what holds for all windows."""
        dataset = self.dataset
        self.width, self.height, self.transform = dataset.width, dataset.height, dataset.transform
        self.date, self.sensor = date_and_sensor(dataset, Path(self.path).stem)
        if dataset.dtypes[0].startswith("complex"):
            raise ValueError(f"{self.path} holds complex numbers, not colours: convert it to RGB first.")
        color_names = [color.name for color in dataset.colorinterp]
        self._color_table = color_table(dataset)
        alpha = 1 + color_names.index("alpha") if "alpha" in color_names else None
        self._has_alpha = alpha is not None and self._is_mask(alpha)
        if self._color_table is not None:
            self.bands = (1, 1, 1)
        else:
            num_bands = dataset.count - (1 if self._has_alpha else 0)
            declared = check_bands(bands, dataset, self.path)
            self.bands = declared or guess_bands(dataset, num_bands, self.sensor, self.path)
        self._bit_range = None if self._color_table is not None else bit_range(dataset, self.bands[0])
        self._placement = Placement(dataset)
        self.crs, self.pixel_size = self._placement.crs, self._placement.pixel_size

    def _find_stretch(self) -> tuple[np.ndarray | None, list[float]]:
        """What becomes 0 and 255, and what is no data; nothing for 8 bits, whose values stay as they are."""
        self.fill_values: list[float] = []
        if self._bit_range is not None:
            return self._bit_range, []
        if self._color_table is not None or self.dataset.dtypes[self.bands[0] - 1] == "uint8":
            return None, []
        values, valid = self._read_values(None, self.fit(None, OVERVIEW_SIZE), "nearest")
        fills = find_fill_values(values, valid)
        valid &= ~np.isin(values, fills).all(axis=0)
        return find_stretch(values, valid), fills

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *exception: object) -> None:
        self.dataset.close()

    def _is_mask(self, band: int) -> bool:
        """Whether a band called alpha is a mask (nothing or all) and no mislabelled fourth colour."""
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
        size = size or self.fit(window, max(self.width, self.height))
        with readable(self.path):
            values, valid = self._read_values(window, size, "average" if self._color_table is None else "nearest")
            if self.fill_values:
                unmixed, _ = self._read_values(window, size, "nearest")
                valid &= ~np.isin(unmixed, self.fill_values).all(axis=0)
            if self.stretch is not None:
                values = stretched(values, valid, self.stretch)
        return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))), valid

    def _read_values(
        self, window: Window | None, size: tuple[int, int], resampling: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """The file's own values of red, green and blue, or those of its colour table, and where they are data."""
        rasterio = import_rasterio()
        part = None if window is None else rasterio.windows.Window(*window)
        options = {"window": part, "out_shape": (3, size[1], size[0])}
        flags = self.dataset.mask_flag_enums[self.bands[0] - 1]
        is_alpha = rasterio.enums.MaskFlags.alpha in flags
        values = self.dataset.read(list(self.bands), resampling=rasterio.enums.Resampling[resampling], **options)
        is_undeclared = rasterio.enums.MaskFlags.all_valid in flags or (is_alpha and not self._has_alpha)
        if not is_undeclared:
            valid = self.dataset.read_masks(list(self.bands), **options).any(axis=0)
        elif self._bit_range is not None:
            valid = np.ones(values.shape[1:], bool)
        else:
            valid = (values != 0).any(axis=0) if self._color_table is None else np.ones(values.shape[1:], bool)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self._color_table is not None:
            colors = self._color_table[values[0]]  # (height, width, 4)
            return colors[..., :3].transpose(2, 0, 1), valid & (colors[..., 3] > 0)
        return values, valid

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
        """The GeoJSON geometry and the bounds of a window, as in [`Chip`]."""
        return self._placement.footprint(window)


def _offsets(length: int, size: int, overlap: float) -> list[int]:
    """Starts of the fewest evenly spaced spans of `size` that cover `length` and overlap at least by that share."""
    count = 1 + math.ceil((length - size) / max(1.0, size * (1 - overlap)))
    return [round(offset) for offset in np.linspace(0, length - size, count)]
