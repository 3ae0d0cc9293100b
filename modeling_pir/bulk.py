"""Embedding in bulk: a data set of Parquet files, one output file for each; the same work on a cluster with Ray.

Needs pyarrow (`pip install "modeling-pir[search]"`); on a cluster also Ray (extra `ray`), and the package on each node.
"""

import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .embed import embed_images
from .hub import load_pretrained
from .images import open_image
from .index import describe_model
from .index_files import ChipOptions, EmbeddedFile, embed_files
from .modeling_pir import PIRModel
from .processing_pir import PIRProcessor

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_FILES = 256  # files, or
GROUP_BYTES = 64_000_000  # of them, that a worker embeds before it hands them over: what a lost node costs
MIN_LOCAL_CPUS = 4  # that Ray is told of: with fewer, workers that hold them all can starve its own tasks

Work = Callable[[PIRModel, PIRProcessor, object], object]


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


def _import_pyarrow() -> ModuleType:
    """The pyarrow package with its Parquet part, or which extra brings it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'modeling-pir[search]'.") from error
    return pyarrow


def _import_ray() -> ModuleType:
    """The ray package with its data part, or which extra brings it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'modeling-pir[ray]'.") from error
    return ray


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
    model: PIRModel,
    processor: PIRProcessor,
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
        model: in evaluation mode.
        processor: its processor.
        shard: input and output.
        description: of the model, see [`index.describe_model`].
        image_column: column of encoded images: bytes, or a struct with bytes or path as `datasets` writes it.
        batch_size: images encoded at once.
        progress: whether to show a progress bar.

    Returns:
        What was done; an input that cannot be read is reported.

    Raises:
        ValueError: the output was made by another model.
        OSError: the output cannot be written.
    """
    pa = _import_pyarrow()
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
                    writer.write_batch(_embed_batch(model, processor, batch, image_column, schema, report))
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
        metadata = _import_pyarrow().parquet.read_schema(file).metadata or {}
    made_by = json.loads(metadata.get(b"pir", b"{}"))
    if made_by.get("weights") != description["weights"]:
        raise ValueError(
            f"{output} was made by another model ({made_by.get('model_id')}) than {description['model_id']}: name "
            "another output folder, or remove the file."
        )


def _output_schema(schema: "pa.Schema", image_column: str, description: Mapping[str, object]) -> "pa.Schema":
    """The input's columns but the image, then embedding and error."""
    pa = _import_pyarrow()
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
    model: PIRModel,
    processor: PIRProcessor,
    batch: "pa.RecordBatch",
    image_column: str,
    schema: "pa.Schema",
    report: ShardReport,
) -> "pa.RecordBatch":
    """A batch of the output."""
    pa = _import_pyarrow()
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
    vectors[~is_bad] = embed_images(model, processor, images, max(1, len(images))).numpy()
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
    model: PIRModel,
    processor: PIRProcessor,
    shards: Sequence[Shard],
    image_column: str = "image",
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[ShardReport]:
    """[`embed_shard`] for all, here and one after another; several processes may share the work."""
    description = describe_model(model)
    for shard in shards:
        yield embed_shard(model, processor, shard, description, image_column, batch_size, progress)


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


def ray_embed_files(
    description: Mapping[str, object],
    files: Sequence[str],
    chips: ChipOptions,
    labels: Mapping[str, Mapping[str, str]],
    batch_size: int = 64,
    **cluster: object,
) -> Iterator[EmbeddedFile]:
    """[`index_files.embed_files`] on Ray, for [`PIRIndex.write`]: one process writes, so no row is there twice.

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
    model: PIRModel,
    processor: PIRProcessor,
    item: tuple[list[str], dict[str, dict[str, str]]],
    chips: ChipOptions,
    batch_size: int,
) -> list[EmbeddedFile]:
    """A group of files, embedded."""
    files, labels = item
    return list(embed_files(model, processor, files, chips, labels, batch_size))


class _Worker:
    """A process of Ray that has loaded the model and does pickled work with it.

    Args:
        description: of the model.
    """

    def __init__(self, description: Mapping[str, object]) -> None:
        self.model, self.processor = load_pretrained(description["model_id"], description["revision"])
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        if describe_model(self.model)["weights"] != description["weights"]:
            raise ValueError(f"{description['model_id']} has other weights on this node: copy the same ones to all.")

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        work, item = pickle.loads(row["task"])
        return {"result": pickle.dumps(work(self.model, self.processor, item))}


def run_on_ray(
    work: Work,
    items: Sequence[object],
    description: Mapping[str, object],
    address: str | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> Iterator[object]:
    """Do work with the model for each item, on Ray Data; an item whose node is lost is done again elsewhere.

    Args:
        work: function of model, processor and item, which can be pickled.
        items: what it is called with.
        description: of the model: its id or folder, which every node can load.
        address: of a cluster, "auto" for the one this machine belongs to; None starts Ray on this machine alone.
        num_workers: processes with a model each; None takes one per GPU, or one per four processors.
        progress: whether Ray shows its progress.

    Yields:
        Results in the order in which they are done.

    Raises:
        ValueError: a model without a name.
        ImportError: Ray is missing.
        RuntimeError: Ray has given up.
    """
    if not description["model_id"]:
        raise ValueError("The model has no id or folder that other nodes could load it from: save it, and load it.")
    if not items:
        return
    ray = _import_ray()
    if not ray.is_initialized():
        local = {"include_dashboard": False, "num_cpus": max(MIN_LOCAL_CPUS, os.cpu_count() or 1)}
        with warnings.catch_warnings():  # lancedb's, of any process that is started after its import
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            ray.init(address=address, log_to_driver=False, **({} if address else local))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = progress
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    num_workers = num_workers or num_gpus or max(1, int(ray.cluster_resources()["CPU"]) // 4)
    tasks = [{"task": pickle.dumps((work, item))} for item in items]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        _Worker,
        fn_constructor_args=(dict(description),),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers, initial_size=num_workers),
        num_cpus=1,
        num_gpus=1 if num_gpus else 0,
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(f"Ray has given up ({reason}): what was written is kept, run the command again.") from error
