"""`pir embed`: a data set of Parquet files to embeddings, one output for each."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from .options import Subparsers, add_cluster, add_command, add_model, load_model
from .text import listed

if TYPE_CHECKING:
    from ..inference.parquet_shards import ShardReport


def add_embed(subparsers: Subparsers) -> None:
    """Options of `pir embed`."""
    parser = add_command(
        subparsers,
        "embed",
        _embed_shards,
        "embed the images of a data set of Parquet files, one output for each; what is there is skipped",
        "pir embed /data/parquet --output embeddings --model org/pir-rsicd --engine ray",
    )
    parser.add_argument("source", help="Parquet file, folder or pattern, local or an address; or a data set's id")
    parser.add_argument("--output", required=True, help="folder or address to write to")
    parser.add_argument("--column", default="image", help="that holds the images (default: %(default)s)")
    add_model(parser)
    add_cluster(parser)


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
    lines = [f"{num_rows:,} rows embedded, {len(reports)} shards of which {num_skipped} were there already"]
    failures = [report.failure for report in reports if report.failure]
    bad = [f"{report.source}, row {row}: {sentence}" for report in reports for row, sentence in report.errors]
    if failures:
        lines += [f"{len(failures)} shards could not be read:", *listed(failures)]
    if bad:
        lines += [f"{len(bad)} images could not be read, their rows have an error and no embedding:", *listed(bad)]
    return "\n".join(lines)
