"""`pir embed`: embed a data set of Parquet files, one output per file, or a folder of images into one file."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .options import Subparsers, add_cluster, add_command, add_model, load_model
from .text import listed

if TYPE_CHECKING:
    from ..index.embed_files import EmbeddedFile
    from ..index.stores.columns import Row
    from ..inference.parquet_shards import ShardReport


IMAGES_FILE = "images.parquet"  # what a folder of images becomes
GROUP_ROWS = 10_000  # that are written at once


def add_embed(subparsers: Subparsers) -> None:
    """Options of `pir embed`."""
    parser = add_command(
        subparsers,
        "embed",
        _embed,
        "embed the images of Parquet files (one output per file) or of a folder; existing outputs are skipped",
        "pir embed parquet --output embeddings --model org/pir-rsicd",
    )
    parser.add_argument(
        "source", help="Parquet file, folder or glob, local or remote; a data set on the Hub; a folder of images"
    )
    parser.add_argument("--output", required=True, help="folder or address to write to")
    parser.add_argument("--column", default="image", help="column with the images (default: %(default)s)")
    add_model(parser)
    add_cluster(parser)


def _embed(args: argparse.Namespace) -> int:
    """Embed images, or a data set."""
    is_images = os.path.isdir(args.source) and next(Path(args.source).rglob("*.parquet"), None) is None
    return _embed_images(args) if is_images else _embed_shards(args)


def _embed_images(args: argparse.Namespace) -> int:
    """Embed a folder of images and scenes into one GeoParquet file, which `pir index --from` reads."""
    from ..index.archive.scan import scan_files
    from ..index.embed_files import embed_files
    from ..index.exchange.geoparquet import write_geoparquet
    from ..index.exchange.vectors import open_vectors

    if args.engine != "local":
        raise ValueError(
            "A folder of images is embedded in this process: leave --engine out, or use pir index --engine ray."
        )
    output = Path(args.output) / IMAGES_FILE
    if output.exists():
        made_by = open_vectors(output).description
        print(json.dumps({"output": str(output), "rows": 0, "errors": []}) if args.json else
              f"{output} exists already, made by {made_by['model_id']}: remove it to embed again")  # fmt: skip
        return 0
    scan = scan_files([os.path.abspath(args.source)], {}, exclude=os.path.abspath(args.output))
    if not scan.new:
        raise ValueError(f"{args.source} contains neither images nor Parquet files: name a folder that does.")
    encoder = load_model(args)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, errors = output.with_suffix(".partial"), list(scan.unreadable)
    files = embed_files(encoder, scan.new, labels=scan.labels, batch_size=args.batch_size, progress=not args.json)
    try:
        count = write_geoparquet(partial, _row_groups(files, errors), encoder.describe())
        partial.rename(output)
    finally:
        partial.unlink(missing_ok=True)
    if args.json:
        print(json.dumps({"output": str(output), "rows": count, "errors": errors}))
    else:
        bad = [f"{len(errors)} files could not be read:", *listed([text for _, text in errors])] if errors else []
        print("\n".join([f"{output}: {count:,} rows", *bad]))
    return 1 if errors else 0


def _row_groups(
    files: Iterable["EmbeddedFile"], errors: list[tuple[str, str]]
) -> Iterator[tuple[list["Row"], np.ndarray]]:
    """Rows and vectors of embedded files, thousands at once; files that could not be read are noted as errors."""
    rows: list[Row] = []
    vectors: list[np.ndarray] = []
    for file in files:
        if file.error is not None:
            errors.append((file.path, file.error))
            continue
        rows += file.rows
        vectors.append(file.embeddings)
        if len(rows) >= GROUP_ROWS:
            yield rows, np.concatenate(vectors)
            rows, vectors = [], []
    if rows:
        yield rows, np.concatenate(vectors)


def _embed_shards(args: argparse.Namespace) -> int:
    """Embed a data set."""
    from ..inference.parquet_shards import check_columns, embed_shards, list_shards, ray_embed_shards

    shards = list_shards(args.source, args.output)
    check_columns(shards, args.column)
    encoder = load_model(args)
    if args.engine == "ray":
        cluster = {"address": args.address, "num_workers": args.workers, "progress": not args.json}
        reports = ray_embed_shards(encoder.describe(), shards, args.column, args.batch_size, **cluster)
    else:
        reports = embed_shards(encoder, shards, args.column, args.batch_size, progress=not args.json)
    reports = list(reports)
    print(json.dumps({"shards": [asdict(report) for report in reports]}) if args.json else _embed_text(reports))
    return 1 if any(report.errors or report.failure for report in reports) else 0


def _embed_text(reports: Sequence["ShardReport"]) -> str:
    """What was done, in lines."""
    num_rows, num_skipped = sum(report.rows for report in reports), sum(report.skipped for report in reports)
    lines = [f"{num_rows:,} rows embedded, {len(reports)} shards, of which {num_skipped} existed already"]
    failures = [report.failure for report in reports if report.failure]
    bad = [f"{report.source}, row {row}: {sentence}" for report in reports for row, sentence in report.errors]
    if failures:
        lines += [f"{len(failures)} shards could not be read:", *listed(failures)]
    if bad:
        lines += [f"{len(bad)} images could not be read; their rows have an error and no embedding:", *listed(bad)]
    return "\n".join(lines)
