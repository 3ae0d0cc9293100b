"""Open rasters safely: only listed formats, and no other file or address that a file refers to."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import need
from ..inference.images import MAX_PIXELS
from .side_files import are_harmless, side_files

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader


FORMATS = ("GTiff", "JP2OpenJPEG", "JPEG", "PNG", "BMP", "GIF", "BIGGIF", "WEBP")  # drivers that hold pixels themselves
NO_NETWORK = {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none", "GDAL_HTTP_MAX_RETRY": 0}
NO_SIDE_FILES = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
MAX_PRJ = 100_000  # characters
MAX_PIXELS_PER_BYTE = 10_000  # of a file: no compression of an image reaches it


def import_rasterio() -> ModuleType:
    """The rasterio package with the parts used here, or which extra brings it."""
    need("rasterio.warp", "geo", "Georeferenced scenes need")
    need("rasterio.transform", "geo", "Georeferenced scenes need")
    return need("rasterio", "geo", "Georeferenced scenes need")


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn whatever GDAL raises on a broken file into one sentence."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # beside its own errors KeyError, AttributeError, OverflowError ... of a broken header
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}): remove it or replace it.") from error


def open_dataset(path: str | Path, allow_references: bool = False) -> "DatasetReader":
    """Open a raster with rasterio.

    A VRT, a WMS description or an external overview can name any file of this machine, whose bytes become pixels, and
    any address, which is then asked. So only files of `FORMATS` are opened, and side files that lead elsewhere are
    left out, unless the archive is trusted.

    Args:
        path: of a local file; with `allow_references` anything that GDAL opens, such as `s3://...` or a subdataset.
        allow_references: whether the file may name other files and addresses.

    Returns:
        An open dataset, to be closed by the caller.

    Raises:
        ValueError: a file that cannot be read, or that refers to others.
        ImportError: rasterio is missing.
    """
    rasterio = import_rasterio()
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # no footprint says it
        if allow_references:
            return rasterio.open(path)
        if "://" in str(path) or str(path).startswith("/vsi"):
            raise ValueError(f"{path} is an address, not a local file: allow references to open it.")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is not a regular file: name an image.")
        if Path(path).suffix.lower() == ".vrt":
            raise ValueError(f"{path} is made of other files (VRT): allow references if you trust where it is from.")
        options = NO_NETWORK if are_harmless(path) else NO_NETWORK | NO_SIDE_FILES
        with rasterio.Env(**options):
            dataset = rasterio.io.DatasetReader(os.path.abspath(path), driver=list(FORMATS))
        try:
            _refuse_what_leads_elsewhere(dataset, path)
        except BaseException:
            dataset.close()
            raise
        return dataset


def crs_beside(path: str | Path) -> "CRS | None":
    """The CRS that a `.prj` beside a raster names, as ArcGIS writes one with a world file; GDAL reads none."""
    note = side_files(path).get(".prj")
    if note is None or not os.path.isfile(note):
        return None
    with open(note, encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_PRJ)
    try:
        return import_rasterio().crs.CRS.from_wkt(text, morph_from_esri_dialect=True) or None
    except Exception:  # no CRS: the world file alone does not say where the raster lies, which is listed
        return None


def _refuse_what_leads_elsewhere(dataset: "DatasetReader", path: str | Path) -> None:
    """Refuse a file whose own tags name another as its overview, and one that claims pixels it cannot hold."""
    if "OVERVIEW_FILE" in dataset.tags(ns="OVERVIEWS"):
        raise ValueError(f"{path} names another file as its overview: allow references if you trust where it is from.")
    num_pixels = dataset.width * dataset.height
    if num_pixels > max(MAX_PIXELS, MAX_PIXELS_PER_BYTE * os.path.getsize(path)):
        raise ValueError(
            f"{path} claims {dataset.width} x {dataset.height} pixels in {os.path.getsize(path):,} bytes: remove it or "
            "replace it."
        )
