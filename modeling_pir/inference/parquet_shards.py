"""Embed a data set of Parquet files, one output file each, here or on a Ray cluster.

Needs pyarrow (`pip install "modeling-pir[search]"`); on a cluster also Ray (extra `ray`), and the package on each node.
"""

import glob
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import fsspec
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..errors import need
from ..hub.lock import holding, writer_lock
from .encoder import Encoder
from .images import open_image
from .ray_workers import run_on_ray

if TYPE_CHECKING:
    import pyarrow as pa


logger = logging.getLogger(__name__)


class UnreadableShardError(ValueError):
    """An input file that is damaged."""


class UnfitColumnsError(ValueError):
    """A shard whose columns are not those that are asked for."""


@dataclass(frozen=True)
class Shard:
    """An input file and its output file, local paths or addresses such as hf://datasets/... and s3://..."""

    source: str
    output: str


@dataclass
class ShardReport:
    """What became of a shard.

    Attributes:
        source: the input file.
        output: the output file.
        rows: written; 0 if the file was there.
        errors: (row, sentence) of images that could not be read; their embedding is null.
        skipped: whether the output was there already.
        failure: a sentence if the shard could not be read at all.
    """

    source: str
    output: str
    rows: int = 0
    errors: list[tuple[int, str]] = field(default_factory=list)
    skipped: bool = False
    failure: str | None = None


def import_pyarrow() -> ModuleType:
    """The pyarrow package with its Parquet part, or which extra brings it."""
    need("pyarrow.parquet", "search", "Parquet needs")
    return need("pyarrow", "search", "Parquet needs")


def list_shards(source: str, output_dir: str) -> list[Shard]:
    """Parquet files of a data set, each with its output.

    Args:
        source: a Parquet file, a folder of them, a pattern with *, or the id of a data set on the Hub; local or an
            address (hf://, s3://, ...).
        output_dir: folder or address; below it the outputs are called as the inputs are below their common folder.

    Returns:
        Shards in order of name.

    Raises:
        ValueError: there is no Parquet file.
    """
    filesystem, path = fsspec.core.url_to_fs(source)
    found = _parquet_files(filesystem, path)
    if not found and re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):  # not on the disk: the id of a data set
        filesystem, path = fsspec.core.url_to_fs(f"hf://datasets/{source}")
        found = _parquet_files(filesystem, path)
    if not found:
        raise ValueError(f"There is no .parquet file at {source}: name a file, a folder, a pattern or a data set's id.")
    common = os.path.commonpath([str(PurePosixPath(name).parent) for name in found])
    outputs = [os.path.relpath(name, common) for name in found]
    return [
        Shard(filesystem.unstrip_protocol(name), f"{output_dir.rstrip('/')}/{output}")
        for name, output in zip(found, outputs, strict=True)
    ]


def _parquet_files(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Parquet files that a path or pattern names."""
    if "*" in path:
        found = filesystem.glob(path)
    elif filesystem.isdir(path):
        found = filesystem.find(path)
    else:
        found = [path] if filesystem.exists(path) else []
    return sorted(name for name in found if name.endswith(".parquet"))


def embed_shard(
    encoder: Encoder,
    shard: Shard,
    description: Mapping[str, object],
    image_column: str = "image",
    batch_size: int = 64,
    progress: bool = False,
    wait: float = -1,
) -> ShardReport:
    """Embed the images of a Parquet file into another, unless that is there.

    The output has the input's columns but the image, then `embedding` (projection_dim float32, unit norm) and `error`
    (null, or a sentence; the embedding is null then), and names the model in its metadata under `pir`. It appears
    under its name only when it is complete. On a disk, one process at a time works on a shard. What is there is skipped
    if it is readable and has as many rows as the input.

    Args:
        encoder: of `load_encoder`.
        shard: input and output.
        description: of the model, see `Encoder.describe`.
        image_column: column of encoded images: bytes, or a struct with bytes or path as `datasets` writes it.
        batch_size: images encoded at once.
        progress: whether to show a progress bar.
        wait: seconds for another process that works on the shard; -1 for as long as it takes.

    Returns:
        What was done; an input that cannot be read is reported.

    Raises:
        ValueError: the output was made by another model, or the columns do not fit.
        BlockingIOError: another process still works on the shard.
        OSError: the output cannot be written.
    """
    filesystem, output = fsspec.core.url_to_fs(shard.output)
    filesystem.makedirs(str(PurePosixPath(output).parent), exist_ok=True)
    with _claiming(filesystem, output, wait):
        if filesystem.exists(output) and _is_whole(filesystem, output, shard, description):
            return ShardReport(shard.source, shard.output, skipped=True)
        report = ShardReport(shard.source, shard.output)
        partial_output = f"{output}.{uuid4().hex}.partial"
        try:
            with fsspec.open(shard.source) as file, filesystem.open(partial_output, "wb") as sink:
                work = partial(_embed_batch, encoder, shard, image_column)
                _write_shard(file, sink, work, report, description, image_column, batch_size, progress)
            filesystem.mv(partial_output, output)
        except (UnreadableShardError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0]
            report.rows, report.failure = 0, f"{shard.source} cannot be read ({reason}): replace it and run again."
        finally:
            if filesystem.exists(partial_output):
                filesystem.rm(partial_output)
    return report


def _write_shard(
    file: BinaryIO,
    sink: BinaryIO,
    work: Callable[..., "pa.RecordBatch"],
    report: ShardReport,
    description: Mapping[str, object],
    image_column: str,
    batch_size: int,
    progress: bool,
) -> None:
    """Read, embed and write a shard batch by batch."""
    pa = import_pyarrow()
    with _blaming_the_shard():
        source = pa.parquet.ParquetFile(file)
        input_schema, num_rows = source.schema_arrow, source.metadata.num_rows
    schema = _output_schema(input_schema, image_column, description)
    with (
        pa.parquet.ParquetWriter(sink, schema) as writer,
        tqdm(total=num_rows, desc=report.source, unit="image", disable=not progress) as bar,
    ):
        for batch in _whole_batches(source, batch_size):
            writer.write_batch(work(batch, schema, report))
            bar.update(batch.num_rows)
    if report.rows != num_rows:
        raise UnreadableShardError(f"it has {report.rows:,} of its {num_rows:,} rows")


@contextmanager
def _blaming_the_shard() -> Iterator[None]:
    """Whatever pyarrow raises on damaged bytes, from OSError to IndexError, is the shard's own failure."""
    try:
        yield
    except Exception as error:
        raise UnreadableShardError(str(error) or type(error).__name__) from error


def _whole_batches(source: "pa.parquet.ParquetFile", batch_size: int) -> Iterator["pa.RecordBatch"]:
    """Batches whose every offset was checked: pyarrow trusts them, and would read beyond the memory it has."""
    with _blaming_the_shard():
        batches = source.iter_batches(batch_size)
    while True:
        with _blaming_the_shard():
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        if batch is None:
            return
        yield batch


@contextmanager
def _claiming(filesystem: fsspec.AbstractFileSystem, output: str, wait: float) -> Iterator[None]:
    """Be the only one to write an output, and remove what killed ones have left; object storage has no locks."""
    if "file" not in filesystem.protocol:
        yield
        return
    lock = writer_lock(output)
    with holding(lock, wait):
        try:
            for left in Path(output).parent.glob(f"{glob.escape(Path(output).name)}.*.partial"):
                left.unlink()
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def _is_whole(
    filesystem: fsspec.AbstractFileSystem, output: str, shard: Shard, description: Mapping[str, object]
) -> bool:
    """Whether an output is whole, so that it can be skipped; one that another model has made is refused."""
    parquet = import_pyarrow().parquet
    try:
        with _blaming_the_shard(), filesystem.open(output) as file:
            written = parquet.ParquetFile(file)
            metadata = written.schema_arrow.metadata or {}
            num_rows = written.metadata.num_rows
            made_by = json.loads(metadata.get(b"pir", b"{}"))
    except UnreadableShardError as error:
        logger.warning("%s is damaged (%s) and is made anew.", shard.output, error)
        return False
    if made_by.get("weights") != description["weights"]:
        raise ValueError(
            f"{output} was made by another model ({made_by.get('model_id')}) than {description['model_id']}: name "
            "another output folder, or remove the file."
        )
    try:
        with _blaming_the_shard(), fsspec.open(shard.source) as file:
            expected = parquet.ParquetFile(file).metadata.num_rows
    except UnreadableShardError:  # the input may be gone by now; what was made of it is whole
        return True
    if num_rows != expected:
        logger.warning("%s has %d rows, its input %d: it is made anew.", shard.output, num_rows, expected)
    return num_rows == expected


def check_columns(shards: Sequence[Shard], image_column: str) -> None:
    """Refuse a column that the first readable shard does not have, before a model is loaded.

    Args:
        shards: inputs.
        image_column: see [`embed_shard`].

    Raises:
        UnfitColumnsError: (a ValueError) no such column, or one that holds no images.
    """
    for shard in shards:
        try:
            with _blaming_the_shard(), fsspec.open(shard.source) as file:
                schema = import_pyarrow().parquet.read_schema(file)
        except UnreadableShardError:  # it is reported when its turn comes
            continue
        _output_schema(schema, image_column, {"dim": 1})
        return


def _output_schema(schema: "pa.Schema", image_column: str, description: Mapping[str, object]) -> "pa.Schema":
    """The input's columns but the image, then embedding and error."""
    pa = import_pyarrow()
    if image_column not in schema.names:
        raise UnfitColumnsError(
            f"There is no column {image_column!r} among {', '.join(schema.names)}: name the one that holds the images."
        )
    kind = schema.field(image_column).type
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if is_struct:
        kind = kind.field("bytes").type
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    if not any(holds(kind) for holds in is_bytes):
        raise UnfitColumnsError(
            f"The column {image_column!r} holds {schema.field(image_column).type}, not images: name one of encoded "
            "images, as bytes or as `datasets` writes them."
        )
    taken = {"embedding", "error"} & set(schema.names)
    if taken:
        raise UnfitColumnsError(f"The input has a column {min(taken)!r} already, which the output adds: rename it.")
    fields = [item for item in schema if item.name != image_column]
    fields.append(pa.field("embedding", pa.list_(pa.float32(), description["dim"])))
    fields.append(pa.field("error", pa.string()))
    return pa.schema(fields, metadata={"pir": json.dumps(dict(description))})


def _embed_batch(
    encoder: Encoder,
    shard: Shard,
    image_column: str,
    batch: "pa.RecordBatch",
    schema: "pa.Schema",
    report: ShardReport,
) -> "pa.RecordBatch":
    """A batch of the output."""
    pa = import_pyarrow()
    images: list[Image.Image] = []
    errors: list[str | None] = []
    with _blaming_the_shard():  # text that is not UTF-8
        values = batch.column(image_column).to_pylist()
    for value in values:
        try:
            images.append(_decode(value, shard))
            errors.append(None)
        except ValueError as error:
            report.errors.append((report.rows + len(errors), str(error)))
            errors.append(str(error))
    is_bad = np.array([error is not None for error in errors])
    vectors = np.zeros((len(errors), schema.field("embedding").type.list_size), dtype=np.float32)
    vectors[~is_bad] = encoder.embed_images(images, max(1, len(images))).numpy()
    embedding = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1], mask=pa.array(is_bad))
    report.rows += batch.num_rows
    kept = [batch.column(name) for name in schema.names[:-2]]
    return pa.RecordBatch.from_arrays([*kept, embedding, pa.array(errors, pa.string())], schema=schema)


def _decode(value: bytes | dict | None, shard: Shard) -> Image.Image:
    """An image from a cell: bytes, or {"bytes": ..., "path": ...}.

    A data set is another's work: a path is followed only where there are no bytes, from a shard on this disk to a file
    beside or below it.
    """
    name = None
    if isinstance(value, dict):
        name, value = value.get("path"), value.get("bytes")
        if value is None and name:
            return open_image(_beside(name, shard), name)
    if not value:
        raise ValueError("The row has no image.")
    return open_image(value, name or "image")


def _beside(name: str, shard: Shard) -> str:
    """The file that a row names, if it lies where the shard does."""
    filesystem, source = fsspec.core.url_to_fs(shard.source)
    folder = os.path.realpath(os.path.dirname(source))
    path = os.path.realpath(os.path.join(folder, name))
    if "file" not in filesystem.protocol or not path.startswith(os.path.join(folder, "")):
        raise ValueError(f"The row has no image, only the path {name!r} outside of its data set, which is not read.")
    return path


def embed_shards(
    encoder: Encoder,
    shards: Sequence[Shard],
    image_column: str = "image",
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[ShardReport]:
    """[`embed_shard`] for all, here and one after another; several processes may share the work.

    Those that another process works on come last, when it has done them or has died.
    """
    description = encoder.describe()
    work = partial(_embed_or_report, encoder, description=description, image_column=image_column)
    claimed = []
    for shard in shards:
        try:
            yield work(shard, batch_size=batch_size, progress=progress, wait=0)
        except BlockingIOError:
            claimed.append(shard)
    for shard in claimed:
        yield work(shard, batch_size=batch_size, progress=progress)


def _embed_or_report(encoder: Encoder, shard: Shard, **options: object) -> ShardReport:
    """[`embed_shard`] for one of many: columns that do not fit are the shard's failure and stop no other."""
    try:
        return embed_shard(encoder, shard, **options)
    except UnfitColumnsError as error:
        return ShardReport(shard.source, shard.output, failure=f"{shard.source}: {error}")


def ray_embed_shards(
    description: Mapping[str, object],
    shards: Sequence[Shard],
    image_column: str = "image",
    batch_size: int = 64,
    **cluster: object,
) -> Iterator[ShardReport]:
    """[`embed_shard`] for all, on Ray; those that are there are skipped, so a second run embeds what is missing.

    Args:
        description: of the model, which every node loads by its id.
        shards: inputs and outputs that every node can reach.
        image_column: see [`embed_shard`].
        batch_size: images encoded at once.
        cluster: see [`run_on_ray`].

    Yields:
        A report per shard, in the order in which they are done.
    """
    work = partial(_embed_or_report, description=description, image_column=image_column, batch_size=batch_size)
    yield from run_on_ray(work, shards, description, **cluster)
