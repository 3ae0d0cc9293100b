"""`pir index` creates or updates an index; `pir delete`, `pir export-rows` and `pir check` work on its rows."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..geo.raster import RASTER_SUFFIXES
from ..index.exchange.vectors import open_vectors
from ..index.import_vectors import import_vectors
from .options import (
    Subparsers,
    add_chips,
    add_cluster,
    add_command,
    add_model,
    at_least_one,
    given_chips,
    load_model,
)
from .text import index_text

WORTH_AN_EXPORT = 500  # images whose embedding by torch takes longer than the export and they by ONNX Runtime
CHIP_BYTES = 224 * 224 * 3  # of a scene's file, about

if TYPE_CHECKING:
    from ..index.embed_files import EmbeddedFile
    from ..index.exchange.stac_source import StacImages
    from ..index.pir_index import AddReport, PIRIndex


def add_index(subparsers: Subparsers) -> None:
    """Options of `pir index`."""
    parser = add_command(
        subparsers,
        "index",
        _index,
        "index a folder of images and scenes, or update an index with what has changed",
        "pir index archive --index archive.lance --model org/pir-rsicd",
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="folder, file or STAC catalogue; a second run embeds only changes"
    )
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    add_model(parser, required=False)
    add_chips(parser, overlap=0.25)
    add_cluster(parser)
    parser.add_argument(
        "--from",
        dest="vectors",
        metavar="PARQUET",
        help="take rows and vectors from a file of pir export-rows or pir embed",
    )
    parser.add_argument(
        "--delete-missing", action="store_true", help="delete rows of files that are gone from the folder"
    )
    parser.add_argument("--force", action="store_true", help="delete even rows of folders that are empty or unreadable")
    parser.add_argument(
        "--root", metavar="FOLDER", help="folder that paths are relative to (default: the first SOURCE)"
    )


def add_rows(subparsers: Subparsers) -> None:
    """`pir delete`, `pir export-rows` and `pir check`."""
    about = (
        ("delete", _delete, "delete rows from an index", "pir delete \"scene = 'airport'\" --index archive.lance"),
        (
            "export-rows",
            _export,
            "export rows of an index to GeoParquet, GeoJSON or STAC",
            "pir export-rows all.parquet --index archive.lance",
        ),
        ("check", _check, "measure the recall of an index against exact search", "pir check --index archive.lance"),
    )
    delete, export, check = (add_command(subparsers, *facts) for facts in about)
    delete.add_argument("where", metavar="SQL", help="which rows, such as \"scene = 'airport'\"")
    export.add_argument("file", metavar="FILE", help=".geojson, .parquet or FOLDER/collection.json")
    export.add_argument("--where", metavar="SQL", help="export only these rows")
    check.add_argument(
        "--queries", type=at_least_one, default=100, help="number of rows used as queries (default: 100)"
    )
    for parser in (delete, export, check):
        parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")


def _delete(args: argparse.Namespace) -> int:
    """Delete rows."""
    index = _open(args)
    return _tell(index, {"deleted": index.delete(args.where)}, args)


def _export(args: argparse.Namespace) -> int:
    """Write rows to a file."""
    index = _open(args)
    return _tell(index, {"export": args.file, "exported": index.export(args.file, args.where)}, args)


def _check(args: argparse.Namespace) -> int:
    """Measure the recall."""
    index = _open(args)
    return _tell(index, {"recall@10": index.check(args.queries)}, args)


def _open(args: argparse.Namespace) -> "PIRIndex":
    """The index that is named, without its model."""
    from ..index.pir_index import PIRIndex

    return PIRIndex.open(args.index)


def _tell(index: "PIRIndex", done: dict, args: argparse.Namespace) -> int:
    """Print what was done; the exit code."""
    result = {"index": index.path, "engine": index.store.kind, "rows": len(index)} | done
    print(json.dumps(result) if args.json else index_text(result))
    return 1 if result.get("errors") else 0


def _index(args: argparse.Namespace) -> int:
    """Add what is new or changed."""
    if not (args.sources or args.vectors):
        raise ValueError("There is nothing to index: give a SOURCE or --from.")
    if args.sources and args.vectors:
        raise ValueError("A SOURCE and --from cannot be combined: run pir index twice.")
    if args.delete_missing and not (len(args.sources) == 1 and os.path.isdir(args.sources[0])):
        raise ValueError("--delete-missing needs exactly one SOURCE, the folder that the index is compared with.")
    if args.vectors:
        index = index_of_vectors(args)
        return _tell(index, asdict(import_vectors(index, open_vectors(args.vectors))), args)
    catalogue = take_in_catalogues(args)
    index = open_or_create(args)
    with index.writing():
        done = asdict(add_sources(index, args, catalogue))
    return _tell(index, done | {"text_side": export_text_side(index)}, args)


def open_or_create(args: argparse.Namespace) -> "PIRIndex":
    """The index that is named; made if it is not there."""
    from ..index.pir_index import PIRIndex

    if "://" in args.index or os.path.exists(args.index):
        try:
            return PIRIndex.open(args.index)
        except ValueError:
            if os.path.exists(args.index):
                raise
    for source in args.sources:
        if not os.path.exists(source):
            raise ValueError(f"{source} does not exist: name a folder of images and scenes, or one of them.")
    encoder = load_model(args)
    try:
        return PIRIndex.create(args.index, encoder)
    except ValueError:  # another process has made it meanwhile
        if not os.path.exists(args.index):
            raise
        return PIRIndex.open(args.index, encoder)


def take_in_catalogues(args: argparse.Namespace) -> "StacImages":
    """Put the images of STAC catalogues in the place of the catalogues among the sources.

    Raises:
        ValueError: a catalogue that cannot be read, or that names no image.
    """
    from ..index.exchange.stac_source import StacImages, is_stac, stac_images

    found, sources = StacImages(), []
    for source in args.sources:
        if not is_stac(source) or os.path.isdir(source):
            sources.append(source)
            continue
        images = stac_images(source, Path(f"{args.index}.assets"))
        if not images.labels:
            why = f" ({images.errors[0][1]})" if images.errors else ""
            raise ValueError(f"{source} names no image that can be read{why}: name a STAC catalogue with images.")
        sources += images.labels
        found.labels |= images.labels
        found.errors += images.errors
    args.sources = sources
    return found


def index_of_vectors(args: argparse.Namespace) -> "PIRIndex":
    """The index that is named; made if it is not there, for the model that the file of vectors names."""
    from ..index.pir_index import PIRIndex

    description = open_vectors(args.vectors).description
    if "://" in args.index or os.path.exists(args.index):
        return PIRIndex.open(args.index)
    if args.model is None and description["model_id"] is None:
        raise ValueError(f"{args.vectors} does not name the model that made its vectors: add --model.")
    args.model, args.revision = args.model or description["model_id"], args.revision or description["revision"]
    return PIRIndex.create(args.index, load_model(args))


def add_sources(index: "PIRIndex", args: argparse.Namespace, catalogue: "StacImages") -> "AddReport":
    """Add what is new; the model is loaded only if there is something to embed, or if another one is named."""
    index.settle(args.sources, args.root)
    scan = index.scan(*args.sources, recut=given_chips(args))
    scan.labels = catalogue.labels | scan.labels
    scan.unreadable += catalogue.errors
    files = scan.new + scan.changed
    named = args.model and (os.path.abspath(args.model) if os.path.isdir(args.model) else args.model)
    is_other = named not in (None, index.metadata["model_id"]) or args.revision not in (
        None,
        index.metadata["revision"],
    )
    if index.encoder is None and (files or is_other):
        index.attach(load_model(args, index))
    if files:
        _export_image_side(index, files)
    embedded = _embed(index, files, scan.labels, args) if files else ()
    return index.write(embedded, scan, args.delete_missing, args.force)


def export_text_side(index: "PIRIndex") -> str | None:
    """Export the text side of the model that was just used, so that searches by words start without torch.

    Returns:
        A line that says what was done, or why searches will load the model; None if there was nothing to do.
    """
    from ..inference.onnx_text import is_wanted, text_encoder_folder

    folder = text_encoder_folder(index.metadata["weights"])
    if index.encoder is None or not is_wanted() or folder.exists():
        return None
    from ..convert.export_text import export_text
    from ..index.questions.bank import bank_embeds

    try:
        export_text(index.encoder, folder, bank_embeds(index.encoder, index.metadata["weights"]))
    except (ValueError, OSError, ImportError) as error:
        return f"searches will load the whole model: {error}"
    return f"text side exported to {folder}: searches by words start without torch"


def _export_image_side(index: "PIRIndex", files: list[str]) -> None:
    """Export the image side of a PIR, which on a CPU embeds faster, where what that costs is soon won back."""
    from ..inference.encoder import PIREncoder, runs_on_onnx

    encoder = index.encoder
    if not isinstance(encoder, PIREncoder) or encoder.vision_session is not None or not runs_on_onnx(encoder.model):
        return
    if num_images(files) < WORTH_AN_EXPORT:
        return
    from ..convert.export_image import export_image

    try:
        export_image(encoder)
    except (ValueError, OSError, ImportError) as error:
        print(f"The images are embedded with torch, which is slower: {error}", file=sys.stderr)


def num_images(files: list[str]) -> int:
    """About how many images are embedded: a picture is one, a scene as many as its size has chips."""
    scenes = [path for path in files if path.lower().endswith(RASTER_SUFFIXES)]
    size = sum(os.path.getsize(path) for path in scenes if os.path.isfile(path))
    return len(files) - len(scenes) + size // CHIP_BYTES


def _embed(index: "PIRIndex", files: list[str], labels: dict, args: argparse.Namespace) -> Iterator["EmbeddedFile"]:
    """Embed files here or on Ray."""
    from ..index.embed_files import embed_files

    asked = index.cut_options(given_chips(args))
    chips = replace(asked, allow_references=args.allow_references).resolved(index.encoder)
    if (
        asked.ground_resolution is None
        and chips.ground_resolution
        and any(path.lower().endswith(RASTER_SUFFIXES) for path in files)
    ):
        print(
            f"The model was trained at about {chips.ground_resolution:g} m per pixel: finer scenes are cut at "
            "that resolution (change it with --ground-resolution).",
            file=sys.stderr,
        )
    if args.engine == "local":
        return embed_files(index.encoder, files, chips, labels, args.batch_size, not args.json)
    from ..index.embed_files import ray_embed_files

    return ray_embed_files(
        index.metadata,
        files,
        chips,
        labels,
        args.batch_size,
        address=args.address,
        num_workers=args.workers,
        progress=not args.json,
    )
