"""Make the rows of an index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from PIL import Image

from .archive.dates import iso_date
from .archive.labels import LABELS
from .stores.columns import COLUMNS, Row, row_id

METADATA = ("path", "window", "footprint", "bounds", "crs", *LABELS)  # that may come with an image in memory


def make_row(
    path: str,
    window: Sequence[int] | None = None,
    footprint: dict | None = None,
    bounds: Sequence[float] | None = None,
    **values: str | None,
) -> Row:
    """A row with all keys of `COLUMNS`; what is not given is None."""
    row: Row = dict.fromkeys(COLUMNS) | values
    row |= {"id": row_id(path, window or ()), "path": path}
    row |= zip(("col_off", "row_off", "width", "height"), map(int, window or ()), strict=bool(window))
    row |= zip(("minx", "miny", "maxx", "maxy"), map(float, bounds or ()), strict=bool(bounds))
    row["footprint"] = json.dumps(footprint) if footprint else None
    return row


def image_row(image: Image.Image, metadata: Mapping[str, object]) -> Row:
    """The row of an image in memory.

    Args:
        image: of any mode.
        metadata: any of `METADATA`; without a path, the hash of the pixels names the image.

    Returns:
        A row with the pixels' hash.

    Raises:
        ValueError: another key, or a date that is none.
    """
    unknown = sorted(set(metadata) - set(METADATA))
    if unknown:
        raise ValueError(f"The metadata of an image have the key {unknown[0]!r}: allowed are {', '.join(METADATA)}.")
    pixels = hashlib.blake2b(f"{image.mode}{image.size}".encode(), digest_size=16)
    pixels.update(image.tobytes())
    values = dict(metadata)
    if values.get("date") is not None:
        values["date"] = iso_date(str(values["date"]))
    path = str(values.pop("path", None) or f"image:{pixels.hexdigest()}")
    window = values.pop("window", None) or (0, 0, *image.size)
    row = make_row(path, window, values.pop("footprint", None), values.pop("bounds", None), **values)
    return row | {"hash": pixels.hexdigest()}
