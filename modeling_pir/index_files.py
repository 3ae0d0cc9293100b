"""What an index is made of: the files of an archive, which of them are new, and their images as embedded rows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .images import IMAGE_SUFFIXES, open_image
from .scenes import RASTER_SUFFIXES, Chip, is_georaster, iter_chips

if TYPE_CHECKING:  # a scan needs no torch, whose import takes longer than the scan
    from .modeling_pir import PIRModel
    from .processing_pir import PIRProcessor

COLUMNS: dict[str, type] = {  # of an index, beside the embedding
    "id": str,  # of the row: a hash of path and window
    "path": str,  # absolute
    "col_off": int,  # window of the file, pixels
    "row_off": int,
    "width": int,
    "height": int,
    "footprint": str,  # GeoJSON geometry, WGS84
    "minx": float,  # its bounding box, degrees; minx > maxx across the antimeridian
    "miny": float,
    "maxx": float,
    "maxy": float,
    "crs": str,  # of the file
    "date": str,  # ISO, so that it sorts as text
    "sensor": str,
    "scene": str,  # label
    "size": int,  # of the file, bytes
    "time": float,  # last change of the file, seconds since 1970
    "hash": str,  # BLAKE2b of the file
}
LABELS_FILE = "metadata.jsonl"  # as in an imagefolder data set: one JSON object with file_name per line
LABELS = ("scene", "date", "sensor")  # columns taken from it
METADATA = ("path", "window", "footprint", "bounds", "crs", *LABELS)  # that may come with an image in memory

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is the one that was indexed: bytes, seconds since 1970, BLAKE2b."""

    size: int
    time: float
    hash: str


@dataclass
class Scan:
    """What [`scan_files`] found.

    Attributes:
        new: files that are not in the index.
        changed: files whose content is not the indexed one.
        num_unchanged: files that need nothing.
        gone: indexed files below the folder that are there no more.
        skipped: files that are no images by their suffix.
        unreadable: (path, sentence) of files that cannot even be looked at.
        labels: scene, date and sensor of files that a `metadata.jsonl` describes, by path.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    num_unchanged: int = 0
    gone: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ChipOptions:
    """How scenes are cut, see [`scenes.iter_chips`]."""

    chip_size: int = 224
    ground_resolution: float | None = None
    overlap: float = 0.25
    bands: tuple[int, ...] | None = None


DEFAULT_CHIPS = ChipOptions()


@dataclass
class EmbeddedFile:
    """A file's rows, all or none of them.

    Attributes:
        path: absolute.
        rows: one per image or chip, with the keys of `COLUMNS`.
        embeddings: (rows, projection_dim) float32, unit norm.
        error: a sentence if the file could not be read; there are no rows then.
    """

    path: str
    rows: list[Row]
    embeddings: np.ndarray
    error: str | None = None


def list_files(source: str | Path) -> list[str]:
    """Absolute paths of a file, or of all files below a folder; hidden ones are left out.

    Raises:
        ValueError: neither file nor folder.
    """
    source = os.path.abspath(source)
    if os.path.isfile(source):
        return [source]
    if not os.path.isdir(source):
        raise ValueError(f"{source} does not exist: name a folder of images and scenes, or one of them.")
    files = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files


def scan_files(files: Iterable[str], known: Mapping[str, FileState], exclude: str) -> Scan:
    """Compare files with what is indexed, without opening an image.

    A file of the same size and time is taken for unchanged; one of another time only if its hash is the same.

    Args:
        files: absolute paths.
        known: what is indexed, by path.
        exclude: the index itself, which may lie among the images.

    Returns:
        The files by what is to be done with them.

    Raises:
        ValueError: a `metadata.jsonl` that is broken.
    """
    scan = Scan()
    seen = set()
    own_files, own_folder = (exclude, f"{exclude}-wal", f"{exclude}-shm"), f"{exclude}{os.sep}"  # SQLite adds the two
    for path in files:
        if path in own_files or path.startswith(own_folder):
            continue
        if os.path.basename(path) == LABELS_FILE:
            scan.labels |= read_labels(path)
        elif not path.lower().endswith((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)):
            scan.skipped.append(path)
        elif path not in seen:
            seen.add(path)
            _sort_in(path, known.get(path), scan)
    scan.gone = sorted(path for path in known if path not in seen)
    return scan


def _sort_in(path: str, known: FileState | None, scan: Scan) -> None:
    """Put an image file into the list it belongs to."""
    try:
        path.encode()
        if known is None:
            scan.new.append(path)
            return
        status = os.stat(path)
        same = status.st_size == known.size and (status.st_mtime == known.time or file_hash(path) == known.hash)
        if same:
            scan.num_unchanged += 1
        else:
            scan.changed.append(path)
    except UnicodeEncodeError:
        printable = path.encode(errors="surrogateescape").decode(errors="replace")
        scan.unreadable.append((printable, f"The name of {printable} is not UTF-8: rename the file."))
    except OSError as error:
        scan.unreadable.append((path, f"{path} cannot be read ({error.strerror}): remove it or replace it."))


def read_labels(path: str | Path) -> dict[str, dict[str, str]]:
    """Scene, date and sensor of the files that a `metadata.jsonl` describes.

    Args:
        path: of the file; `file_name` is relative to its folder.

    Returns:
        Labels by absolute path; what is no text is left out.

    Raises:
        ValueError: a line that is no JSON object.
    """
    labels = {}
    folder = os.path.dirname(os.path.abspath(path))
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = entry.get("file_name")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"Line {number} of {path} is no JSON object ({error}): mend it or remove it.") from error
        if isinstance(name, str):
            found = {key: entry[key] for key in LABELS if isinstance(entry.get(key), str)}
            labels[os.path.normpath(os.path.join(folder, name))] = found
    return labels


def file_hash(path: str | Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_file(path: str, chips: ChipOptions, labels: Mapping[str, str]) -> Iterator[tuple[Image.Image, Row]]:
    """Read a file: a georeferenced scene chip by chip, any other as one image.

    Args:
        path: absolute.
        chips: how scenes are cut.
        labels: scene, date and sensor; they take precedence over what the file says.

    Yields:
        8-bit RGB images, each with its row.

    Raises:
        ValueError: a file that cannot be read.
        OSError: likewise.
        ImportError: a scene, and rasterio is missing.
    """
    status = os.stat(path)
    state = {"size": status.st_size, "time": status.st_mtime, "hash": file_hash(path)}
    if is_georaster(path):
        for chip in iter_chips(path, chips.chip_size, chips.ground_resolution, chips.overlap, chips.bands):
            yield chip.image, _chip_row(path, chip) | state | labels
    else:
        image = open_image(path)
        yield image, make_row(path, (0, 0, *image.size)) | state | labels


def _chip_row(path: str, chip: Chip) -> Row:
    """The row of a chip."""
    return make_row(path, chip.window, chip.footprint, chip.bounds, crs=chip.crs, date=chip.date, sensor=chip.sensor)


def make_row(
    path: str,
    window: Sequence[int] | None = None,
    footprint: dict | None = None,
    bounds: Sequence[float] | None = None,
    **values: str | None,
) -> Row:
    """A row with all keys of `COLUMNS`; what is not given is None."""
    name = f"{path}|{','.join(map(str, window or ()))}"
    row: Row = dict.fromkeys(COLUMNS) | values
    row |= {"id": hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), "path": path}
    row |= zip(("col_off", "row_off", "width", "height"), map(int, window or ()), strict=bool(window))
    row |= zip(("minx", "miny", "maxx", "maxy"), map(float, bounds or ()), strict=bool(bounds))
    row["footprint"] = json.dumps(footprint) if footprint else None
    return row


@dataclass
class _Record:
    """An image of a file, or with no image the file's end; its error then says why the file is left out."""

    path: str
    image: Image.Image | None = None
    row: Row | None = None
    error: str | None = None


def _records(
    files: Iterable[str], chips: ChipOptions, labels: Mapping[str, Mapping[str, str]], progress: bool
) -> Iterator[_Record]:
    """All images of all files, an end after each file."""
    for path in tqdm(files, desc="embedding", unit="file", disable=not progress):
        error = None
        try:
            for image, row in read_file(path, chips, labels.get(path, {})):
                yield _Record(path, image, row)
        except ValueError as problem:
            error = str(problem)
        except OSError as problem:
            error = f"{path} cannot be read ({problem.strerror or problem}): remove it or replace it."
        yield _Record(path, error=error)


def _groups(records: Iterable[_Record], num_images: int) -> Iterator[list[_Record]]:
    """Cut records into lists that hold `num_images` images, the last one fewer."""
    group: list[_Record] = []
    count = 0
    for record in records:
        group.append(record)
        count += record.image is not None
        if count == num_images:
            yield group
            group, count = [], 0
    if group:
        yield group


def embed_files(
    model: PIRModel,
    processor: PIRProcessor,
    files: Iterable[str],
    chips: ChipOptions = DEFAULT_CHIPS,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[EmbeddedFile]:
    """Embed files, images of several files together.

    Args:
        model: in evaluation mode.
        processor: its processor.
        files: absolute paths.
        chips: how scenes are cut.
        labels: see [`Scan`].
        batch_size: images encoded at once.
        progress: whether to show a progress bar.

    Yields:
        Each file once, complete, in order.
    """
    from .embed import embed_images

    rows: list[Row] = []  # of the file that is being read
    vectors: list[np.ndarray] = []
    no_vector = np.empty((0, model.config.projection_dim), dtype=np.float32)
    for group in _groups(_records(files, chips, labels or {}, progress), batch_size):
        images = [record.image for record in group if record.image is not None]
        embeddings = iter(embed_images(model, processor, images, batch_size).numpy())
        for record in group:
            if record.image is not None:
                rows.append(record.row)
                vectors.append(next(embeddings))
                continue
            if record.error is None:
                yield EmbeddedFile(record.path, rows, np.stack(vectors))
            else:
                yield EmbeddedFile(record.path, [], no_vector, record.error)
            rows, vectors = [], []


def image_row(image: Image.Image, metadata: Mapping[str, object]) -> Row:
    """The row of an image in memory.

    Args:
        image: of any mode.
        metadata: any of `METADATA`; without a path, the hash of the pixels names the image.

    Returns:
        A row with the pixels' hash.

    Raises:
        ValueError: another key.
    """
    unknown = sorted(set(metadata) - set(METADATA))
    if unknown:
        raise ValueError(f"The metadata of an image have the key {unknown[0]!r}: allowed are {', '.join(METADATA)}.")
    pixels = hashlib.blake2b(f"{image.mode}{image.size}".encode(), digest_size=16)
    pixels.update(image.tobytes())
    values = dict(metadata)
    path = str(values.pop("path", None) or f"image:{pixels.hexdigest()}")
    window = values.pop("window", None) or (0, 0, *image.size)
    row = make_row(path, window, values.pop("footprint", None), values.pop("bounds", None), **values)
    return row | {"hash": pixels.hexdigest()}
