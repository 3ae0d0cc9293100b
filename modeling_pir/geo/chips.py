"""Cut a raster or an image into overlapping chips."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .footprint import Bounds, Window
from .opening import import_rasterio
from .raster import Raster


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
    allow_references: bool = False,
) -> Iterator[Chip]:
    """Cut a scene into overlapping square chips, row by row, the last ones flush with the edges.

    Args:
        path: of a raster; anything from a COG to a JPEG.
        chip_size: pixels of a chip's side. A scene that is smaller gives smaller chips.
        ground_resolution: metres on the ground per pixel of a chip; overviews are read where the file has them. A
            file that is coarser keeps its own resolution, and so does one without a place. None: the file's own.
        overlap: share of a chip's side, 0 to below 1, that neighbours share at least.
        bands: numbers from 1 of the bands that are red, green and blue. None finds them in the file's colour
            interpretation, band descriptions, sensor or number of bands.
        max_nodata: chips with a larger share of nodata pixels, 0 to 1, are skipped. Where a file declares no nodata,
            pixels of which all three bands are 0 count, and values that stand alone, such as -9999.
        allow_references: whether the file may lead to others and to the network: a VRT, `s3://...`, a subdataset. Only
            for archives that you trust, since such a file can name any other.

    Yields:
        [`Chip`]s. 8-bit values stay as they are; others are stretched between percentiles of the scene (see
        [`find_stretch`]), band by band, the same for all chips of the scene.

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
    import_rasterio()
    return _chips(path, chip_size, ground_resolution, overlap, bands, max_nodata, allow_references)


def _chips(
    path: str | Path,
    chip_size: int,
    ground_resolution: float | None,
    overlap: float,
    bands: Sequence[int] | None,
    max_nodata: float,
    allow_references: bool,
) -> Iterator[Chip]:
    """[`iter_chips`] after its checks."""
    num_windows = num_chips = 0
    with Raster(path, bands, allow_references=allow_references) as scene:
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
