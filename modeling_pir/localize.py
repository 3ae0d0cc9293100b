"""Where in a large scene a sentence applies: a heat map as a picture and as a GeoTIFF, and the best places.

Needs rasterio and matplotlib (`pip install "modeling-pir[geo]"`).
"""

import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .embed import embed_images, embed_texts
from .modeling_pir import PIRModel
from .processing_pir import PIRProcessor
from .scenes import Bounds, Chip, Scene, Window, iter_chips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT_SIZE = 1024  # cells, longer side of a heat map at most
MAX_IOU = 0.1  # intersection over union from which two windows count as the same place
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


@dataclass
class Localization:
    """What [`localize`] found.

    Attributes:
        places: the best windows that hardly overlap (see `MAX_IOU`), best first.
        heat: (rows, cols) float32, cosine similarity of each cell; NaN where the scene has no data.
        num_chips: how many windows were compared with the sentence.
        picture: path of the PNG.
        geotiff: path of the GeoTIFF.
        crs: of the scene; None where it has none, and then the GeoTIFF lies nowhere on the ground either.
    """

    places: list[Place]
    heat: np.ndarray
    num_chips: int
    picture: Path
    geotiff: Path
    crs: str | None


def localize(
    model: PIRModel,
    processor: PIRProcessor,
    path: str | Path,
    sentence: str,
    output_dir: str | Path,
    chip_size: int = 224,
    ground_resolution: float | None = None,
    overlap: float = 0.5,
    bands: Sequence[int] | None = None,
    num_places: int = 5,
    batch_size: int = 64,
    progress: bool = False,
) -> Localization:
    """Compare a sentence with every part of a scene.

    Each chip's similarity to the sentence is spread over its window, most in the middle and least at the edges; a
    cell of the heat map is the mean of the chips over it, so weighted. `<scene>.heat.png` and `<scene>.heat.tif` are
    written; the latter holds the cosine as float32 in the scene's CRS, NaN where there is no data.

    Args:
        model: in evaluation mode.
        processor: its processor.
        path: a georeferenced scene, or any image.
        sentence: what to look for.
        output_dir: folder of the two files; made if missing.
        chip_size: pixels of a chip's side; sets the size of what can be told apart.
        ground_resolution: metres per pixel of a chip, see [`scenes.iter_chips`].
        overlap: share of a chip's side that neighbours share: more of it, a finer map and more time.
        bands: see [`scenes.iter_chips`].
        num_places: places returned and framed, at most.
        batch_size: chips encoded at once.
        progress: whether to show a progress bar.

    Returns:
        The places, the heat map and where it was written.

    Raises:
        ValueError: an empty sentence, fewer than one place, or what [`scenes.iter_chips`] refuses.
        ImportError: rasterio or matplotlib is missing.
    """
    if not sentence.strip():
        raise ValueError(f"The sentence is empty ({sentence!r}): say what to look for.")
    if num_places < 1:
        raise ValueError(f"num_places is {num_places}, but it has to be at least 1.")
    _import_figure()
    chips = iter_chips(path, chip_size, ground_resolution, overlap, bands)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    text_embed = embed_texts(model, processor, [sentence])[0]  # (projection_dim,)
    places: list[Place] = []
    image_embeds = embed_images(
        model, processor, _images(chips, places), batch_size, progress=Path(path).name if progress else None
    )
    for place, similarity in zip(places, (image_embeds @ text_embed).tolist(), strict=True):
        place.similarity = similarity
    picture, geotiff = (output_dir / f"{Path(path).stem}.heat.{suffix}" for suffix in ("png", "tif"))
    with Scene(path, bands) as scene:
        size = scene.fit(None, HEAT_SIZE)
        background, valid = scene.read(None, size)
        heat = heat_map(places, (scene.width, scene.height), size)
        heat[~valid] = np.nan
        write_geotiff(geotiff, heat, scene, sentence)
        best = best_places(places, num_places)
        draw_heat(picture, background, heat, best, (scene.width, scene.height), sentence)
        return Localization(best, heat, len(places), picture, geotiff, scene.crs)


def _images(chips: Iterable[Chip], places: list[Place]) -> Iterator[Image.Image]:
    """Hand on the chips' images, noting in `places` where each lies; pixels are held for one batch only."""
    for chip in chips:
        places.append(Place(float("nan"), chip.window, chip.footprint, chip.bounds))
        yield chip.image


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


def best_places(places: Sequence[Place], num_places: int, max_iou: float = MAX_IOU) -> list[Place]:
    """The most similar windows, leaving out any that overlaps a better one.

    Args:
        places: windows with their similarity.
        num_places: how many to keep at most.
        max_iou: intersection over union, 0 to 1, above which a window is the same place as a better one.

    Returns:
        Best first; fewer than `num_places` where the rest overlaps.
    """
    kept: list[Place] = []
    for place in sorted(places, key=lambda place: -place.similarity):
        if len(kept) < num_places and all(_iou(place.window, other.window) <= max_iou for other in kept):
            kept.append(place)
    return kept


def _iou(first: Window, second: Window) -> float:
    """Intersection over union of two windows."""
    shared = 1
    for axis in (0, 1):
        end = min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
        shared *= max(0, end - max(first[axis], second[axis]))
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def write_geotiff(path: Path, heat: np.ndarray, scene: Scene, sentence: str) -> None:
    """Write a heat map that lies over its scene in a GIS.

    Args:
        path: of the file; replaced if there.
        heat: (rows, cols) float32, NaN where there is no data.
        scene: where it lies; without a CRS the file has none either.
        sentence: becomes the band's description.
    """
    import rasterio

    rows, cols = heat.shape
    a, b, c, d, e, f = scene.transform[:6]
    across, down = scene.width / cols, scene.height / rows  # pixels of the scene per cell
    transform = rasterio.Affine(a * across, b * down, c, d * across, e * down, f)
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": cols, "height": rows, "nodata": np.nan}
    profile |= {"crs": scene.dataset.crs, "transform": transform, "compress": "deflate", "predictor": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # `Localization.crs` says it
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(heat, 1)
            dataset.set_band_description(1, sentence)
            dataset.update_tags(SENTENCE=sentence, UNIT="cosine similarity")


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
    figure = _import_figure()(figsize=(10, height + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(background.convert("L"), cmap="gray", vmin=0, vmax=255)
    layer = axes.imshow(heat, cmap="cividis", alpha=0.6)  # cividis: told apart by colour-blind readers
    axes.set(xticks=[], yticks=[])
    axes.set_title(textwrap.fill(sentence, 80, max_lines=2, placeholder=" ..."), fontsize=13, parse_math=False)
    figure.colorbar(layer, ax=axes, label="cosine similarity", fraction=0.046, pad=0.02)
    scale_x, scale_y = cols / scene_size[0], rows / scene_size[1]
    for number, place in enumerate(places, start=1):
        col, row, width, tall = place.window
        _draw_frame(axes, (col * scale_x - 0.5, row * scale_y - 0.5), (width * scale_x, tall * scale_y))
        label = f"{number}: {place.similarity:.3f}"
        badge = {"boxstyle": "square,pad=0.2", "facecolor": "black", "edgecolor": "white", "linewidth": 0.8}
        axes.text(col * scale_x + 4, row * scale_y + 4, label, color="white", va="top", fontsize=9, bbox=badge)
    figure.savefig(path, dpi=120)


def _draw_frame(axes: object, corner: tuple[float, float], extent: tuple[float, float]) -> None:
    """Outline a window so that it shows on light and on dark ground."""
    from matplotlib.patches import Rectangle

    for color, line_width in zip(MARK_COLORS, (3.5, 1.5), strict=True):
        axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor=color, linewidth=line_width))


def _import_figure() -> type["Figure"]:
    """Matplotlib's Figure, apart from pyplot: no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Heat map pictures need matplotlib: pip install 'modeling-pir[geo]'.") from error
    return Figure
