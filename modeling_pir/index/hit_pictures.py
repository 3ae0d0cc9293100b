"""Pictures of hits, one by one and as a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from ..geo.raster import is_georaster, read_window
from ..hub.whole_folder import whole_file
from ..inference.images import open_image
from .fonts import draw_text

if TYPE_CHECKING:
    from .hit import Hit


SHEET_COLUMNS = 5
TILE_SIZE = 224  # pixels
FONT_SIZE, LINE_HEIGHT, CAPTION_HEIGHT = 11, 15, 34
THUMBNAIL_SIZE = 512  # pixels, longer side


def write_sheet(path: str | Path, hits: Sequence["Hit"]) -> None:
    """Draw the hits on one sheet, each with rank, similarity, file name and date.

    Args:
        path: of the picture.
        hits: most similar first.

    Raises:
        OSError: the picture cannot be written.
    """
    num_columns = min(SHEET_COLUMNS, max(1, len(hits)))
    num_rows = max(1, -(-len(hits) // num_columns))
    sheet = Image.new("RGB", (num_columns * TILE_SIZE, num_rows * (TILE_SIZE + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(gallery_items(hits)):
        left, top = number % num_columns * TILE_SIZE, number // num_columns * (TILE_SIZE + CAPTION_HEIGHT)
        image.thumbnail((TILE_SIZE - 4, TILE_SIZE - 4))
        sheet.paste(image, (left + 2, top + 2))
        rank, similarity, *rest = caption.split(" · ")
        for line, text in enumerate((f"{rank}: {similarity}", " ".join(rest))):
            place = (left + 4, top + TILE_SIZE + line * LINE_HEIGHT)
            draw_text(draw, place, text, FONT_SIZE, "black", TILE_SIZE - 8)
    with whole_file(path) as partial:
        sheet.save(partial)


def hit_image(hit: "Hit", size: int = THUMBNAIL_SIZE) -> Image.Image:
    """The picture of a hit: its window of a scene, or the whole image.

    Args:
        hit: of a search.
        size: pixels of the longer side at most.

    Raises:
        ValueError: the file is gone or broken.
        ImportError: a scene, and rasterio is missing.
    """
    if is_georaster(hit.path):
        return read_window(hit.path, hit.window, size, hit.bands)
    image = open_image(hit.path, enough_pixels=size)
    image.thumbnail((size, size))
    return image


def gallery_items(hits: Sequence["Hit"]) -> list[tuple[Image.Image, str]]:
    """Pictures with rank, similarity, date and file; a file that is gone becomes a tile that says so."""
    items = []
    for rank, hit in enumerate(hits, start=1):
        try:
            image = hit_image(hit)
        except ValueError as error:
            image = Image.new("RGB", (256, 256), "#333333")
            for line, text in enumerate(_wrap(str(error), 36)):
                draw_text(ImageDraw.Draw(image), (8, 8 + line * LINE_HEIGHT), text, FONT_SIZE, "white", 240)
        known = (f"{hit.similarity:.3f}", hit.date, Path(hit.path).name)
        items.append((image, " · ".join([str(rank), *(text for text in known if text)])))
    return items


def _wrap(text: str, width: int) -> list[str]:
    """Break a text, which may be a path without spaces, into lines."""
    return [text[start : start + width] for start in range(0, len(text), width)]
