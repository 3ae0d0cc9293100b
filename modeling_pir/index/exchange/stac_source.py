"""Read images to index from a STAC catalogue or a stac-geoparquet file: local assets and assets by HTTP."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import need

if TYPE_CHECKING:
    import pystac

SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".webp")
PREFERRED = ("visual", "image", "data", "analytic")  # keys of assets, and roles, the first one counts
PICTURES_OF_PICTURES = {"thumbnail", "overview", "metadata", "embeddings"}  # roles of assets that are not the image
PROPERTIES = ("datetime", "start_datetime", "platform", "constellation", "instruments")
SCHEMES = ("http", "https")
SECONDS = 60.0  # without a byte, after which an address is given up
MAX_BYTES = 4_000_000_000  # of an asset that is fetched


@dataclass
class StacImages:
    """The images of a catalogue.

    Attributes:
        labels: date and sensor by the path of the file, which is on the disk.
        errors: (Item, sentence) of Items without an image that can be read.
    """

    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)


def is_stac(path: str) -> bool:
    """Whether a source names a catalogue, a Collection, an Item, or a stac-geoparquet file, by its suffix."""
    return urllib.parse.urlsplit(path).path.lower().endswith((".json", ".parquet", ".geoparquet"))


def stac_images(source: str, folder: Path) -> StacImages:
    """Find the images of a catalogue, and fetch those that are elsewhere.

    Args:
        source: path or address of a catalogue, a Collection or an Item (`.json`), or path of a stac-geoparquet file.
        folder: for what is fetched; made if it is needed. What lies there already is not fetched again.

    Raises:
        ValueError: the source cannot be read, or is no STAC.
        ImportError: pystac or pyarrow is missing.
    """
    items = _items_of_parquet(source) if source.endswith("parquet") else _items(source)
    found = StacImages()
    for name, assets, properties, base in items:
        href = _image_href(assets)
        if href is None:
            found.errors.append(
                (name, f"The STAC Item {name} has no asset that is an image: add one, or leave it out.")
            )
            continue
        try:
            path = _on_disk(href, base, folder)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            found.errors.append((name, f"The image of the STAC Item {name} cannot be read ({reason}): {href}"))
            continue
        found.labels[path] = _labels(properties)
    return found


def _items(source: str) -> Iterator[tuple[str, dict, dict, str]]:
    """Name, assets, properties and own address of every Item below a catalogue; each object is read once."""
    pystac = need("pystac", "stac", "STAC needs")
    start = source if urllib.parse.urlsplit(source).scheme in SCHEMES else os.path.abspath(source)
    waiting, seen = [start], {start}
    while waiting:
        href = waiting.pop()
        found = _read(pystac, href)
        if isinstance(found, pystac.Item):
            assets = {key: asset.to_dict() for key, asset in found.assets.items()}
            yield found.id, assets, found.properties, href
            continue
        for link in reversed(found.get_links()):
            if link.rel in ("child", "item"):
                target = link.get_absolute_href()
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)


def _read(pystac: object, href: str) -> pystac.STACObject:
    """A STAC object.

    Raises:
        ValueError: it cannot be read, or is none.
    """
    try:
        return pystac.read_file(href)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pystac.STACError, pystac.STACTypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{href} is not readable STAC ({reason}): name a catalogue, a Collection or an Item.") from (
            error
        )


def _items_of_parquet(source: str) -> Iterator[tuple[str, dict, dict, str]]:
    """The same of a stac-geoparquet file, whose properties are columns."""
    pa = need("pyarrow", "search", "Parquet needs")
    pq = need("pyarrow.parquet", "search", "Parquet needs")
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source} is not a readable Parquet file ({reason}): name one of STAC Items.") from error
    names = [name for name in ("id", "assets", *PROPERTIES) if name in file.schema_arrow.names]
    if "assets" not in names:
        raise ValueError(
            f"{source} has no column 'assets', so it holds no STAC Items: bring vectors in with --from, or name images."
        )
    with file:
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                assets = {key: asset for key, asset in (row["assets"] or {}).items() if asset}
                yield str(row.get("id")), assets, row, os.path.abspath(source)


def _image_href(assets: dict[str, dict]) -> str | None:
    """The address of the asset that is the image: by its key and roles the most likely one."""
    images = []
    for key, asset in assets.items():
        roles = set(asset.get("roles") or ())
        href, kind = asset.get("href") or "", asset.get("type") or ""
        is_image = kind.startswith("image/") or urllib.parse.urlsplit(href).path.lower().endswith(SUFFIXES)
        if not href or not is_image or roles & PICTURES_OF_PICTURES or key in PICTURES_OF_PICTURES:
            continue
        names = [key, *roles]
        images.append(
            (min((PREFERRED.index(name) for name in names if name in PREFERRED), default=9), len(images), href)
        )
    return min(images)[2] if images else None


def _on_disk(href: str, base: str, folder: Path) -> str:
    """The absolute path of an asset, fetched if it is elsewhere.

    Raises:
        OSError: it is not there.
    """
    if urllib.parse.urlsplit(href).scheme not in SCHEMES and urllib.parse.urlsplit(base).scheme in SCHEMES:
        href = urllib.parse.urljoin(base, href)
    scheme = urllib.parse.urlsplit(href).scheme
    if scheme in SCHEMES:
        return _fetched(href, folder)
    if scheme == "file":
        href = urllib.request.url2pathname(urllib.parse.urlsplit(href).path)
    elif len(scheme) > 1:  # one letter is a drive
        raise OSError(f"addresses of {scheme} are not fetched")
    path = os.path.normpath(os.path.join(os.path.dirname(base), href))
    os.stat(path)
    return path


def _fetched(href: str, folder: Path) -> str:
    """A file of the web, kept under a name that says where it is from; it appears when it is whole."""
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(href).path)).name or "image"
    path = folder / f"{hashlib.blake2b(href.encode(), digest_size=6).hexdigest()}-{name}"
    if path.exists():
        return str(path)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with urllib.request.urlopen(href, timeout=SECONDS) as answer, partial.open("wb") as file:
            count = 0
            while block := answer.read(1 << 20):
                count += len(block)
                if count > MAX_BYTES:
                    raise OSError(f"larger than {MAX_BYTES / 1e9:g} GB")
                file.write(block)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return str(path)


def _labels(properties: dict) -> dict[str, str]:
    """Date and sensor of an Item."""
    date = properties.get("datetime") or properties.get("start_datetime")
    instruments = properties.get("instruments") or [None]
    sensor = properties.get("platform") or properties.get("constellation") or instruments[0]
    labels = {"date": str(date)[:10] if date else None, "sensor": sensor}
    return {name: value for name, value in labels.items() if value}
