"""`pir serve` and `pir demo`: the web page and its API over an index, or over a folder that is indexed first."""

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
        "serve an index as a web page and an HTTP API (described at /docs)",
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
        "search a folder of images in the browser",
        "pir demo images",
    )
    parser.add_argument("images", metavar="FOLDER", help="folder of images; its index is deleted when the page stops")
    _add_address(parser)
    add_model(parser, required=False)


def _add_address(parser: argparse.ArgumentParser) -> None:
    """Options for the address and for access."""
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 admits other machines (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument(
        "--token",
        help="token that clients must send (default: none on the loopback interface, else a new one, printed)",
    )
    parser.add_argument(
        "--show-paths", action="store_true", help="show full paths instead of paths relative to the archive"
    )


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
