"""Convert a raster's values to 8-bit RGB: colour tables, undeclared fill values, stretching."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


STRETCH_PERCENTILES = (2, 98)  # of a band's valid values in an overview of the whole scene
MIN_FILL_SHARE = 1e-3  # of the pixels, from which a value that stands alone is a fill value


def color_table(dataset: "DatasetReader") -> np.ndarray | None:
    """(256 or more, 4) uint8, red, green, blue and alpha of the values of a palette; None where there is none."""
    if dataset.colorinterp[0].name != "palette":
        return None
    table = np.zeros((np.iinfo(dataset.dtypes[0]).max + 1, 4), np.uint8)
    for value, color in dataset.colormap(1).items():
        table[value] = color
    return table


def bit_range(dataset: "DatasetReader", band: int) -> np.ndarray | None:
    """(3, 2) lowest and highest value where a band has fewer than 8 bits, such as a map of yes and no; None else."""
    bits = int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    return np.tile([0.0, 2.0**bits - 1], (3, 1)) if bits < 8 else None


def find_fill_values(values: np.ndarray, valid: np.ndarray) -> list[float]:
    """Values that stand for "no data" though the file does not say so, such as -9999 or 65535.

    A fill value is the lowest or the highest of all, the same in all bands at once, no rarity, and farther from the
    others than these are from each other.

    Args:
        values: (bands, height, width), not resampled: a mean of fill and data is neither.
        valid: (height, width) bool, where the file says that there are data.
    """
    fills: list[float] = []
    known = valid.copy()
    for is_lowest in (True, False):
        if not known.any():
            break
        seen = values[:, known]
        value = seen.min() if is_lowest else seen.max()
        is_fill = (values == value).all(axis=0) & known
        rest = values[:, known & ~is_fill]
        if is_fill.sum() < MIN_FILL_SHARE * known.sum() or not rest.size:
            continue
        low, high = np.percentile(rest.astype(np.float64), STRETCH_PERCENTILES)
        if high > low and (low - float(value) if is_lowest else float(value) - high) > high - low:
            fills.append(value)
            known &= ~is_fill
    return fills


def find_stretch(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(3, 2) the values that become 0 and 255 in each band; zeros where nothing is valid."""
    if not valid.any():
        return np.zeros((3, 2))
    return np.percentile(values[:, valid].astype(np.float64), STRETCH_PERCENTILES, axis=1).T


def stretched(values: np.ndarray, valid: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """(3, height, width) uint8 of values of any type; 0 where there is no data."""
    low, high = stretch[:, 0, None, None], stretch[:, 1, None, None]
    scaled = (values.astype(np.float64) - low) * (255 / np.where(high > low, high - low, 1))
    return np.where(valid, scaled, 0).clip(0, 255).round().astype(np.uint8)
