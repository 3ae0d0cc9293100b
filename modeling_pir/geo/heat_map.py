"""Merge similarities of overlapping chips into one map: an array, a picture, a GeoTIFF."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..hub.whole_folder import whole_file
from ..inference.figures import new_figure, wrap
from .footprint import Bounds, Window
from .opening import import_rasterio
from .raster import Raster

if TYPE_CHECKING:
    from rasterio.control import GroundControlPoint


HEAT_SIZE = 1024  # cells, longer side of a heat map at most
MARK_COLORS = ("black", "white")  # of a frame's edge and core: seen on any ground


@dataclass
class Place:
    """A window of the scene that fits the sentence.

    Attributes:
        similarity: cosine, in [-1, 1].
        window: (col_off, row_off, width, height) in pixels of the scene.
        footprint: GeoJSON geometry in WGS84; None where the scene has no place on the ground.
        bounds: (west, south, east, north) in degrees, see [`scenes.Chip`]; None without a place.
    """

    similarity: float
    window: Window
    footprint: dict | None
    bounds: Bounds | None


def heat_map(places: Sequence[Place], scene_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Accumulate the similarity of overlapping windows.

    heat(cell) = sum_w weight_w(cell) similarity_w / sum_w weight_w(cell), where weight_w falls linearly from the
    middle of window w to its edges, across times down.

    Args:
        places: the windows with their similarity.
        scene_size: (width, height) in pixels.
        size: (width, height) of the map in cells, no more than pixels.

    Returns:
        (height, width) float32 in [-1, 1]; NaN where no window lies.
    """
    scale_x, scale_y = size[0] / scene_size[0], size[1] / scene_size[1]
    total, weights = np.zeros((size[1], size[0])), np.zeros((size[1], size[0]))
    for place in places:
        col, row, width, height = place.window
        cols, across = _tent(col * scale_x, width * scale_x, size[0])
        rows, down = _tent(row * scale_y, height * scale_y, size[1])
        weight = down[:, None] * across[None, :]
        total[rows, cols] += weight * place.similarity
        weights[rows, cols] += weight
    return np.where(weights > 0, total / np.where(weights > 0, weights, 1), np.nan).astype(np.float32)


def _tent(start: float, length: float, limit: int) -> tuple[slice, np.ndarray]:
    """The cells that a span touches, and a weight for each: 1 in the middle of the span, towards 0 at its ends."""
    cells = slice(int(start), min(limit, max(int(start) + 1, int(np.ceil(start + length)))))
    distance = np.abs(np.arange(cells.start, cells.stop) + 0.5 - (start + length / 2)) / (length / 2)
    return cells, np.maximum(1 - distance, 1e-3)  # never 0: the scene's edge is covered by nothing but edges


def write_geotiff(path: Path, heat: np.ndarray, scene: Raster, sentence: str) -> None:
    """Write a heat map that lies over its scene in a GIS, as a Cloud Optimized GeoTIFF.

    Args:
        path: of the file; replaced if there, as a whole.
        heat: (rows, cols) float32, NaN where there is no data.
        scene: where it lies; without a CRS the file has none either.
        sentence: becomes the band's description.
    """
    rasterio = import_rasterio()
    rows, cols = heat.shape
    across, down = scene.width / cols, scene.height / rows  # pixels of the scene per cell
    profile = {"driver": "COG", "dtype": "float32", "count": 1, "width": cols, "height": rows, "nodata": np.nan}
    profile |= {"compress": "deflate", "predictor": 3, "blocksize": 512, "overview_resampling": "average"}
    points, points_crs = scene.dataset.gcps
    if points:
        moved = [_scaled(point, across, down) for point in points]
        profile |= {"gcps": moved, "crs": points_crs}
    else:
        a, b, c, d, e, f = scene.transform[:6]
        transform = rasterio.Affine(a * across, b * down, c, d * across, e * down, f)
        profile |= {"crs": scene.dataset.crs, "transform": transform}
    # Were GDAL to replace a file itself, it would also replace all that its overviews name.
    with warnings.catch_warnings(), whole_file(path) as partial:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # `Localization.crs` says it
        with rasterio.open(partial, "w", **profile) as dataset:
            dataset.write(heat, 1)
            dataset.set_band_description(1, sentence)
            dataset.update_tags(SENTENCE=sentence, UNIT="cosine similarity")


def _scaled(point: "GroundControlPoint", across: float, down: float) -> "GroundControlPoint":
    """A ground control point of a scene, in cells of its map."""
    return type(point)(point.row / down, point.col / across, point.x, point.y, point.z)


def draw_heat(
    path: Path,
    background: Image.Image,
    heat: np.ndarray,
    places: Sequence[Place],
    scene_size: tuple[int, int],
    sentence: str,
) -> None:
    """Draw a heat map over its scene, which is greyed so that colour means similarity only.

    Args:
        path: of the PNG.
        background: the scene, of the map's size.
        heat: (rows, cols), NaN where there is no data.
        places: framed and numbered from 1.
        scene_size: (width, height) in pixels.
        sentence: the title.

    Raises:
        ImportError: matplotlib is missing.
    """
    rows, cols = heat.shape
    height = 9 * min(1.5, max(0.35, rows / cols))
    figure = new_figure(10, height + 0.8)
    axes = figure.subplots()
    axes.imshow(background.convert("L"), cmap="gray", vmin=0, vmax=255)
    layer = axes.imshow(heat, cmap="cividis", alpha=0.6)  # cividis: told apart by colour-blind readers
    axes.set(xticks=[], yticks=[])
    axes.set_title(wrap(sentence, 80, 2), fontsize=13, parse_math=False)
    figure.colorbar(layer, ax=axes, label="cosine similarity", fraction=0.046, pad=0.02)
    scale_x, scale_y = cols / scene_size[0], rows / scene_size[1]
    for number, place in enumerate(places, start=1):
        col, row, width, tall = place.window
        _draw_frame(axes, (col * scale_x - 0.5, row * scale_y - 0.5), (width * scale_x, tall * scale_y))
        label = f"{number}: {place.similarity:.3f}"
        badge = {"boxstyle": "square,pad=0.2", "facecolor": "black", "edgecolor": "white", "linewidth": 0.8}
        axes.text(col * scale_x + 4, row * scale_y + 4, label, color="white", va="top", fontsize=9, bbox=badge)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120)


def _draw_frame(axes: object, corner: tuple[float, float], extent: tuple[float, float]) -> None:
    """Outline a window so that it shows on light and on dark ground."""
    from matplotlib.patches import Rectangle

    for color, line_width in zip(MARK_COLORS, (3.5, 1.5), strict=True):
        axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor=color, linewidth=line_width))
