"""Embedding in bulk: a data set of Parquet files, one output file for each; the same work on a cluster with Ray.

Needs pyarrow (`pip install "modeling-pir[search]"`); on a cluster also Ray (extra `ray`), and the package on each node.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING

import fsspec
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..extras import need
from .encoder import Encoder
from .images import open_image
from .ray_workers import run_on_ray

if TYPE_CHECKING:
    import pyarrow as pa


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
) -> ShardReport:
    """Embed the images of a Parquet file into another, unless that is there.

    The output has the input's columns but the image, then `embedding` (projection_dim float32, unit norm) and `error`
    (null, or a sentence; the embedding is null then), and names the model in its metadata under `pir`. It appears
    under its name only when it is complete.

    Args:
        encoder: of `load_encoder`.
        shard: input and output.
        description: of the model, see `Encoder.describe`.
        image_column: column of encoded images: bytes, or a struct with bytes or path as `datasets` writes it.
        batch_size: images encoded at once.
        progress: whether to show a progress bar.

    Returns:
        What was done; an input that cannot be read is reported.

    Raises:
        ValueError: the output was made by another model.
        OSError: the output cannot be written.
    """
    pa = import_pyarrow()
    filesystem, output = fsspec.core.url_to_fs(shard.output)
    if filesystem.exists(output):
        _check_output(filesystem, output, description)
        return ShardReport(shard.source, shard.output, skipped=True)
    report = ShardReport(shard.source, shard.output)
    partial_output = f"{output}.{os.getpid()}.partial"
    filesystem.makedirs(str(PurePosixPath(output).parent), exist_ok=True)
    try:
        with fsspec.open(shard.source) as file:
            source = pa.parquet.ParquetFile(file)
            schema = _output_schema(source.schema_arrow, image_column, description)
            with (
                filesystem.open(partial_output, "wb") as sink,
                pa.parquet.ParquetWriter(sink, schema) as writer,
                tqdm(total=source.metadata.num_rows, desc=shard.source, unit="image", disable=not progress) as bar,
            ):
                for batch in source.iter_batches(batch_size):
                    writer.write_batch(_embed_batch(encoder, batch, image_column, schema, report))
                    bar.update(batch.num_rows)
        filesystem.mv(partial_output, output)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        report.failure = f"{shard.source} cannot be read ({reason}): replace it and run again."
    finally:
        if filesystem.exists(partial_output):
            filesystem.rm(partial_output)
    return report


def _check_output(filesystem: fsspec.AbstractFileSystem, output: str, description: Mapping[str, object]) -> None:
    """Refuse an output that another model has made."""
    with filesystem.open(output) as file:
        metadata = import_pyarrow().parquet.read_schema(file).metadata or {}
    made_by = json.loads(metadata.get(b"pir", b"{}"))
    if made_by.get("weights") != description["weights"]:
        raise ValueError(
            f"{output} was made by another model ({made_by.get('model_id')}) than {description['model_id']}: name "
            "another output folder, or remove the file."
        )


def _output_schema(schema: "pa.Schema", image_column: str, description: Mapping[str, object]) -> "pa.Schema":
    """The input's columns but the image, then embedding and error."""
    pa = import_pyarrow()
    if image_column not in schema.names:
        raise ValueError(
            f"There is no column {image_column!r} among {', '.join(schema.names)}: name the one that holds the images."
        )
    taken = {"embedding", "error"} & set(schema.names)
    if taken:
        raise ValueError(f"The input has a column {min(taken)!r} already, which the output adds: rename it.")
    fields = [item for item in schema if item.name != image_column]
    fields.append(pa.field("embedding", pa.list_(pa.float32(), description["dim"])))
    fields.append(pa.field("error", pa.string()))
    return pa.schema(fields, metadata={"pir": json.dumps(dict(description))})


def _embed_batch(
    encoder: Encoder,
    batch: "pa.RecordBatch",
    image_column: str,
    schema: "pa.Schema",
    report: ShardReport,
) -> "pa.RecordBatch":
    """A batch of the output."""
    pa = import_pyarrow()
    images: list[Image.Image] = []
    errors: list[str | None] = []
    for value in batch.column(image_column).to_pylist():
        try:
            images.append(_decode(value))
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


def _decode(value: bytes | dict | None) -> Image.Image:
    """An image from a cell: bytes, or {"bytes": ..., "path": ...}."""
    name = None
    if isinstance(value, dict):
        name = value.get("path")
        value = value.get("bytes") or name
    if value is None:
        raise ValueError("The row has no image.")
    return open_image(value, name or "image")


def embed_shards(
    encoder: Encoder,
    shards: Sequence[Shard],
    image_column: str = "image",
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[ShardReport]:
    """[`embed_shard`] for all, here and one after another; several processes may share the work."""
    description = encoder.describe()
    for shard in shards:
        yield embed_shard(encoder, shard, description, image_column, batch_size, progress)


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
    work = partial(embed_shard, description=description, image_column=image_column, batch_size=batch_size)
    yield from run_on_ray(work, shards, description, **cluster)
