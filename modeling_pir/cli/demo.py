"""`pir demo`: the search page over an index, or over a folder that is indexed first."""

import argparse
import os
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING

from .options import Subparsers, add_command, add_model, load_model
from .text import index_text

if TYPE_CHECKING:
    pass


def add_demo(subparsers: Subparsers) -> None:
    """Options of `pir demo`."""
    parser = add_command(
        subparsers,
        "demo",
        _demo,
        "search an index, or a folder of images, on a page in the browser",
        "pir demo /data/images",
    )
    parser.add_argument(
        "images", nargs="?", metavar="FOLDER", help="images to index first, for as long as the page runs"
    )
    parser.add_argument("--index", help="folder, file or address (s3://...) of an index")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    add_model(parser, required=False)


def _demo(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from ..demo.page import launch
    from ..index.pir_index import PIRIndex

    if (args.images is None) == (args.index is None):
        raise ValueError("Name either a FOLDER of images or an --index.")
    if args.images is not None and not os.path.isdir(args.images):
        raise ValueError(f"{args.images} is no folder: name one with images or scenes in it.")
    if args.index is not None:
        index = PIRIndex.open(args.index)
        index.attach(load_model(args, index))
        launch(index, args.host, args.port)
        return 0
    encoder = load_model(args)
    with tempfile.TemporaryDirectory() as folder:
        index = PIRIndex.create(os.path.join(folder, "images.index"), encoder)
        report = index.update(args.images, args.batch_size, progress=True)
        facts = {"index": args.images, "engine": index.store.kind, "rows": len(index)}
        print(index_text(facts | asdict(report)))
        launch(index, args.host, args.port)
    return 0
