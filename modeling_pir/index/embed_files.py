"""Embed the files of an archive, here or on Ray: each file becomes rows and vectors, or an error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..geo.chips import Chip, iter_chips
from ..geo.raster import is_georaster
from ..inference.images import map_ahead, open_image
from .archive.places import file_hash
from .rows import make_row
from .stores.columns import Row

if TYPE_CHECKING:
    from ..inference.encoder import Encoder


GROUP_PIXELS = 40_000_000  # of images that wait to be embedded, so that large ones do not fill the memory
GROUP_FILES = 256  # files, or
GROUP_BYTES = 64_000_000  # of them, that a worker embeds before it hands them over: what a lost node costs


@dataclass(frozen=True)
class ChipOptions:
    """How scenes are cut, see [`iter_chips`]; without a ground resolution the model's own is taken, if it has one."""

    chip_size: int = 224
    ground_resolution: float | None = None
    overlap: float = 0.25
    bands: tuple[int, ...] | None = None
    max_nodata: float = 0.5
    allow_references: bool = False

    def resolved(self, encoder: Encoder) -> ChipOptions:
        """The same options with the model's ground resolution where none is given."""
        return self if self.ground_resolution else replace(self, ground_resolution=encoder.ground_resolution)

    def given(self) -> dict[str, object]:
        """What is asked for, as JSON has it: without what the file or the model decides."""
        options = {name: value for name, value in asdict(self).items() if value is not None}
        options.pop("allow_references")  # which changes no chip
        return options | ({"bands": list(self.bands)} if self.bands else {})


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


def read_file(path: str, chips: ChipOptions, labels: Mapping[str, str]) -> Iterator[tuple[Image.Image, Row]]:
    """Read a file: a georeferenced scene chip by chip, any other as one image.

    Args:
        path: absolute.
        chips: how scenes are cut.
        labels: columns; they take precedence over what the file says.

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
        state["chips"] = json.dumps(chips.given())
        for chip in iter_chips(path, **asdict(chips)):
            yield chip.image, _chip_row(path, chip) | state | labels
    else:
        image = open_image(path)
        yield image, make_row(path, (0, 0, *image.size)) | state | labels


def _chip_row(path: str, chip: Chip) -> Row:
    """The row of a chip."""
    return make_row(path, chip.window, chip.footprint, chip.bounds, crs=chip.crs, date=chip.date, sensor=chip.sensor)


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
    """All images of all files, an end after each file; plain images are decoded ahead, scenes chip by chip."""

    def of_file(path: str) -> Iterable[_Record]:
        records = _records_of(path, chips, labels.get(path, {}))
        return records if _is_scene(path) else list(records)

    for records in map_ahead(of_file, tqdm(files, desc="embedding", unit="file", disable=not progress)):
        yield from records


def _is_scene(path: str) -> bool:
    try:
        return is_georaster(path)
    except Exception:  # the records say so
        return False


def _records_of(path: str, chips: ChipOptions, labels: Mapping[str, str]) -> Iterator[_Record]:
    error = None
    try:
        for image, row in read_file(path, chips, labels):
            yield _Record(path, image, row)
    except Exception as problem:  # a decoder raises anything on a broken file, and no file may end the run
        error = _sentence(path, problem)
    yield _Record(path, error=error)


def _sentence(path: str, problem: Exception) -> str:
    """What is wrong with a file: our own sentence, or one around what a decoder says."""
    if isinstance(problem, ImportError) or (isinstance(problem, ValueError) and path in str(problem)):
        return str(problem)
    reason = (problem.strerror if isinstance(problem, OSError) else None) or str(problem) or type(problem).__name__
    return f"{path} cannot be read ({' '.join(reason.split())}): remove it or replace it."


def _groups(records: Iterable[_Record], num_images: int) -> Iterator[list[_Record]]:
    """Cut records into lists that hold `num_images` images, or fewer where these are large."""
    group: list[_Record] = []
    count = num_pixels = 0
    for record in records:
        group.append(record)
        if record.image is not None:
            count += 1
            num_pixels += record.image.width * record.image.height
        if count == num_images or num_pixels >= GROUP_PIXELS:
            yield group
            group, count, num_pixels = [], 0, 0
    if group:
        yield group


def embed_files(
    encoder: Encoder,
    files: Iterable[str],
    chips: ChipOptions = DEFAULT_CHIPS,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[EmbeddedFile]:
    """Embed files, images of several files together.

    Args:
        encoder: of `load_encoder`.
        files: absolute paths.
        chips: how scenes are cut.
        labels: see [`Scan`].
        batch_size: images encoded at once.
        progress: whether to show a progress bar.

    Yields:
        Each file once, complete, in order.
    """
    rows: list[Row] = []  # of the file that is being read
    vectors: list[np.ndarray] = []
    no_vector = np.empty((0, encoder.dim), dtype=np.float32)
    records = _records(files, chips.resolved(encoder), labels or {}, progress)
    for group in _groups(records, batch_size):
        images = [record.image for record in group if record.image is not None]
        embeddings = iter(encoder.embed_images(images, batch_size).numpy())
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


def ray_embed_files(
    description: Mapping[str, object],
    files: Sequence[str],
    chips: ChipOptions,
    labels: Mapping[str, Mapping[str, str]],
    batch_size: int = 64,
    **cluster: object,
) -> Iterator[EmbeddedFile]:
    """[`embed_files`] on Ray, for [`PIRIndex.write`]: one process writes, so no row is there twice.

    Args:
        description: of the model, which every node loads by its id.
        files: absolute paths that every node can reach.
        chips: how scenes are cut.
        labels: by path.
        batch_size: images encoded at once.
        cluster: see [`run_on_ray`].

    Yields:
        Each file once, in the order in which they are done.
    """
    from ..inference.ray_workers import run_on_ray  # which imports torch

    groups = list(_file_groups(files))
    items = [(group, {path: labels[path] for path in group if path in labels}) for group in groups]
    work = partial(_embed_group, chips=chips, batch_size=batch_size)

    for group in run_on_ray(work, items, description, **cluster):
        yield from group


def _file_groups(files: Sequence[str]) -> Iterator[list[str]]:
    """Files in groups of so many, or of so many bytes."""
    group: list[str] = []
    num_bytes = 0
    for path in files:
        group.append(path)
        num_bytes += os.path.getsize(path) if os.path.isfile(path) else 0
        if len(group) == GROUP_FILES or num_bytes >= GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _embed_group(
    encoder: Encoder,
    item: tuple[list[str], dict[str, dict[str, str]]],
    chips: ChipOptions,
    batch_size: int,
) -> list[EmbeddedFile]:
    """A group of files, embedded."""
    files, labels = item
    return list(embed_files(encoder, files, chips, labels, batch_size))
