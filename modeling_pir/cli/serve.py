"""`pir serve` and `pir demo`: the page and its API over an index, or over a folder that is indexed first."""

import argparse
import contextlib
import os
import tempfile
from dataclasses import asdict

from .options import Subparsers, add_command, add_model, load_model
from .text import index_text


def add_serve(subparsers: Subparsers) -> None:
    """Options of `pir serve`."""
    parser = add_command(
        subparsers,
        "serve",
        _serve,
        "serve an index to browsers and programs: a page, and a JSON and GeoJSON API that /docs describes",
        "pir serve --index archive.lance",
    )
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of an index")
    parser.add_argument("--root", metavar="FOLDER", help="where the archive is now (default: where it was indexed)")
    _add_address(parser)
    add_model(parser, required=False)


def add_demo(subparsers: Subparsers) -> None:
    """Options of `pir demo`."""
    parser = add_command(
        subparsers,
        "demo",
        _demo,
        "search a folder of images on a page in the browser",
        "pir demo images",
    )
    parser.add_argument("images", metavar="FOLDER", help="images, indexed for as long as the page runs")
    _add_address(parser)
    add_model(parser, required=False)


def _add_address(parser: argparse.ArgumentParser) -> None:
    """Options of where to listen, and who may ask."""
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument(
        "--token", help="that whoever asks has to know (default: none on this machine, else a new one that is printed)"
    )
    parser.add_argument("--show-paths", action="store_true", help="tell whole paths, not only those in the archive")


def _serve(args: argparse.Namespace) -> int:
    """Serve an index until interrupted."""
    from ..index.pir_index import PIRIndex
    from ..serve.access import Access
    from ..serve.launch import launch, take_port

    with contextlib.closing(take_port(args.host, args.port)) as taken, contextlib.suppress(KeyboardInterrupt):
        index = PIRIndex.open(args.index, root=args.root)
        index.attach(load_model(args, index))
        index.use_text_encoder()
        launch(index, taken, Access.for_address(args.host, args.token), args.show_paths)
    return 0


def _demo(args: argparse.Namespace) -> int:
    """Index a folder and serve it until interrupted."""
    from ..index.pir_index import PIRIndex
    from ..serve.access import Access
    from ..serve.launch import launch, take_port

    if not os.path.isdir(args.images):
        raise ValueError(f"{args.images} is not a folder: name one with images or scenes in it.")
    with contextlib.closing(take_port(args.host, args.port)) as taken, tempfile.TemporaryDirectory() as folder:
        index = PIRIndex.create(os.path.join(folder, "images.index"), load_model(args))
        report = index.update(args.images, args.batch_size, progress=True)
        facts = {"index": args.images, "engine": index.store.kind, "rows": len(index)}
        print(index_text(facts | asdict(report)))
        name = os.path.basename(os.path.abspath(args.images))
        with contextlib.suppress(KeyboardInterrupt):
            launch(index, taken, Access.for_address(args.host, args.token), args.show_paths, name)
    return 0
