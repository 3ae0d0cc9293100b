"""Files beside a raster that GDAL reads with it: world files, overviews, masks, `.aux.xml`."""

import os
import struct
import warnings
from functools import lru_cache
from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2

PIXEL_FILES = (".ovr", ".msk", ".aux", ".rrd")  # that GDAL opens as a raster, in whatever format they are
GDAL_TAGS = 42112  # the TIFF tag of GDAL's own notes, as XML
PLACES = (b"<GeoTransform", b"<GCPList")  # in an .aux.xml; without them it holds statistics


def side_files(path: str | Path) -> dict[str, str]:
    """Files beside a raster whose names begin as its own, in any spelling.

    Returns:
        Paths by what follows the raster's name or its stem in lower case: ".tif.ovr" or ".tfw" of "scene.tif".
    """
    folder, name = os.path.split(os.path.abspath(path))
    stem = os.path.splitext(name)[0].lower()
    try:
        names = _names_in(folder, os.stat(folder).st_mtime_ns).get(stem, ())
    except OSError:  # a folder that may be entered but not listed: GDAL sees no side files there either
        return {}
    return {other[len(stem) :].lower(): os.path.join(folder, other) for other in names if other != name}


@lru_cache(maxsize=4)
def _names_in(folder: str, time: int) -> dict[str, list[str]]:
    """Names of a folder by each beginning of theirs that ends before a dot, in lower case; listed once for all files.

    Args:
        folder: its path.
        time: of its last change, which makes an old list stale.
    """
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        lower = name.lower()
        for place, letter in enumerate(lower):
            if letter == ".":
                names.setdefault(lower[:place], []).append(name)
    return names


def has_place_beside(path: str | Path) -> bool:
    """Whether a world file or an `.aux.xml` says where an image lies."""
    suffix = Path(path).suffix.lower()
    beside = side_files(path)
    short = f".{suffix[1:2]}{suffix[-1:]}w"
    if any(name in beside for name in (short, f"{suffix}w", f"{suffix}.{suffix[1:]}w", ".wld", f"{suffix}.wld")):
        return True
    return any(place in _beginning(beside.get(f"{suffix}.aux.xml")) for place in PLACES)


def are_harmless(path: str | Path) -> bool:
    """Whether no side file of a raster leads elsewhere: each is a TIFF whose tags name no other, or a file of notes."""
    for file in side_files(path).values():
        lower = file.lower()
        if not os.path.isfile(file) and not os.path.isdir(file):  # a pipe, at which GDAL would wait for ever
            return False
        if lower.endswith(PIXEL_FILES):
            tags = tiff_tags(file)
            if tags is None or "OVERVIEW_FILE" in str(tags.get(GDAL_TAGS, "")):
                return False
        elif lower.endswith(".aux.xml") and b"OVERVIEW_FILE" in _beginning(file):
            return False
    return True


def tiff_tags(path: str | Path) -> dict | None:
    """The tags of a TIFF's first image; None where it is no TIFF or its header is broken."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PIL's, of a truncated header
            start = file.read(8)
            if start[2:4] in (b"+\0", b"\0+"):  # BigTIFF, whose offsets have 8 bytes
                start += file.read(8)
            directory = ImageFileDirectory_v2(start)
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error):
        return None


def _beginning(path: str | None, num_bytes: int = 10_000_000) -> bytes:
    """The first bytes of a file of notes; nothing where there is none."""
    if path is None or not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(num_bytes)
