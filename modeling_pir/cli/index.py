"""`pir index`: make an index of an archive, or bring it up to date."""

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
from .options import Subparsers, add_chips, add_cluster, add_command, add_model, given_chips, load_model
from .text import index_text

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
        "add a folder of images and scenes to an index, or what has changed in it",
        "pir index /data/archive --index archive.lance --model org/pir-rsicd",
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="folder, file or STAC catalogue; a second run adds what is new"
    )
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    add_model(parser, required=False)
    add_chips(parser, overlap=0.25)
    add_cluster(parser)
    parser.add_argument(
        "--from", dest="vectors", metavar="PARQUET", help="rows and vectors that --export or pir embed has written"
    )
    parser.add_argument("--delete-missing", action="store_true", help="also delete what is gone from the folder")
    parser.add_argument(
        "--force", action="store_true", help="also delete what was in folders that are empty or cannot be read"
    )
    parser.add_argument(
        "--root", metavar="FOLDER", help="that paths are relative to (default: the first SOURCE, or where it has moved)"
    )
    parser.add_argument("--delete", metavar="SQL", help="delete rows, such as \"scene = 'airport'\"")
    parser.add_argument(
        "--export", metavar="FILE", help="write all rows as .geojson, .parquet or FOLDER/collection.json"
    )
    parser.add_argument(
        "--check", nargs="?", type=int, const=100, metavar="QUERIES", help="recall against exact search (100 queries)"
    )


def _index(args: argparse.Namespace) -> int:
    """Do what is asked for, in the order: add, delete, export, check."""
    if not (args.sources or args.vectors) and args.delete is None and args.export is None and args.check is None:
        raise ValueError("There is nothing to do: name a SOURCE, or one of --from, --delete, --export and --check.")
    if args.sources and args.vectors:
        raise ValueError("A SOURCE and --from cannot be brought in at once: run pir index twice.")
    if args.delete_missing and not (len(args.sources) == 1 and os.path.isdir(args.sources[0])):
        raise ValueError("--delete-missing needs exactly one SOURCE, the folder whose state the index is to take.")
    catalogue = take_in_catalogues(args)
    index = index_of_vectors(args) if args.vectors else open_or_create(args)
    result: dict = {"index": index.path, "engine": index.store.kind}
    if args.sources:
        with index.writing():
            result |= asdict(add_sources(index, args, catalogue))
    if args.vectors:
        result |= asdict(import_vectors(index, open_vectors(args.vectors)))
    if args.delete is not None:
        result["deleted"] = result.get("deleted", 0) + index.delete(args.delete)
    if args.export is not None:
        result |= {"export": args.export, "exported": index.export(args.export)}
    if args.check is not None:
        result["recall@10"] = index.check(args.check)
    result["rows"] = len(index)
    if args.sources:
        result["text_side"] = export_text_side(index)
    print(json.dumps(result) if args.json else index_text(result))
    return 1 if result.get("errors") else 0


def open_or_create(args: argparse.Namespace) -> "PIRIndex":
    """The index that is named; made if there are sources to put into it."""
    from ..index.pir_index import PIRIndex

    if not args.sources or "://" in args.index or os.path.exists(args.index):
        try:
            return PIRIndex.open(args.index)
        except ValueError:
            if not args.sources or os.path.exists(args.index):
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
            f"The model was trained at about {chips.ground_resolution:g} m per pixel: finer scenes are cut at that "
            "(--ground-resolution changes it).",
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
