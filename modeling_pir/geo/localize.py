"""Find where in a large scene a sentence applies: a heat map as a picture and a GeoTIFF, and the best places.

Needs rasterio and matplotlib (`pip install "modeling-pir[geo]"`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import need
from ..inference.encoder import Encoder
from .chips import Chip, iter_chips
from .footprint import Window
from .heat_map import HEAT_SIZE, Place, draw_heat, heat_map, write_geotiff
from .raster import Raster

MAX_IOU = 0.1  # intersection over union from which two windows count as the same place


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
    encoder: Encoder,
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
    max_nodata: float = 0.5,
    allow_references: bool = False,
) -> Localization:
    """Compare a sentence with every part of a scene.

    Each chip's similarity to the sentence is spread over its window, most in the middle and least at the edges; a
    cell of the heat map is the mean of the chips over it, so weighted. `<scene>.heat.png` and `<scene>.heat.tif` are
    written; the latter holds the cosine as float32 in the scene's CRS, NaN where there is no data.

    Args:
        encoder: of `load_encoder`.
        path: a georeferenced scene, or any image.
        sentence: what to look for.
        output_dir: folder of the two files; made if missing.
        chip_size: pixels of a chip's side; sets the size of what can be told apart.
        ground_resolution: metres per pixel of a chip, see [`iter_chips`]; None takes the model's own, if it has one.
        overlap: share of a chip's side that neighbours share: more of it, a finer map and more time.
        bands: see [`iter_chips`].
        num_places: places returned and framed, at most.
        batch_size: chips encoded at once.
        progress: whether to show a progress bar.
        max_nodata: see [`iter_chips`].
        allow_references: see [`iter_chips`].

    Returns:
        The places, the heat map and where it was written.

    Raises:
        ValueError: an empty sentence, fewer than one place, or what [`iter_chips`] refuses.
        ImportError: rasterio or matplotlib is missing.
    """
    if not sentence.strip():
        raise ValueError(f"The sentence is empty ({sentence!r}): say what to look for.")
    if num_places < 1:
        raise ValueError(f"num_places is {num_places}, but it has to be at least 1.")
    need("matplotlib.figure", "geo", "Heat map pictures need")
    ground_resolution = ground_resolution or encoder.ground_resolution
    chips = iter_chips(path, chip_size, ground_resolution, overlap, bands, max_nodata, allow_references)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    text_embed = encoder.embed_texts([sentence])[0]  # (projection_dim,)
    places: list[Place] = []
    image_embeds = encoder.embed_images(_images(chips, places), batch_size, progress="chips" if progress else None)
    for place, similarity in zip(places, (image_embeds @ text_embed).tolist(), strict=True):
        place.similarity = similarity
    picture, geotiff = (output_dir / f"{Path(path).stem}.heat.{suffix}" for suffix in ("png", "tif"))
    with Raster(path, bands, allow_references=allow_references) as scene:
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
