"""Occlusion maps for any encoder: how much the similarity drops when a part of the image is covered."""

import numpy as np
from PIL import Image, ImageStat

from .encoder import Encoder

CELLS = 8  # a side


def occlusion_map(
    encoder: Encoder, image: Image.Image, query: np.ndarray, cells: int = CELLS, batch_size: int = 64
) -> np.ndarray:
    """Cover an image piece by piece and see what the similarity loses (Zeiler and Fergus, 2014, section 4.2).

    PIR shows its belief instead, which costs one pass; this costs one for each cell.

    Args:
        encoder: of the query.
        image: RGB.
        query: (dim,) unit norm.
        cells: pieces on each side.
        batch_size: images encoded at once.

    Returns:
        (cells, cells) float32, in units of cosine: positive where the image fits the query because of the piece.
    """
    mean = tuple(round(value) for value in ImageStat.Stat(image).mean)
    columns = np.linspace(0, image.width, cells + 1).round().astype(int).tolist()
    rows = np.linspace(0, image.height, cells + 1).round().astype(int).tolist()
    covered = [image]
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            copy = image.copy()
            copy.paste(mean, (left, top, right, bottom))
            covered.append(copy)
    similarity = encoder.embed_images(covered, batch_size).numpy() @ query
    return (similarity[0] - similarity[1:]).reshape(cells, cells)
