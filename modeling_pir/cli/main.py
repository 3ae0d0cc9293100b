"""The `pir` command: index and search an archive, embed data sets, localize, classify, serve, convert, export.

    pir index archive --index archive.lance --model org/pir-rsicd
    pir search "planes beside a terminal" --index archive.lance --picture found.png

Exit codes: 0 all done; 1 done, but some files could not be read (they are listed); 2 failed, with the reason in one
sentence; 130 interrupted; 141 the reader of the output has ended.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence

from .. import __version__
from .classify import add_classify
from .convert import add_convert, add_export
from .embed import add_embed
from .index import add_index, add_rows
from .localize import add_localize
from .search import add_search
from .serve import add_demo, add_serve
from .text import escape_what_cannot_be_encoded, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None takes the command line's.

    Returns:
        The exit code.
    """
    escape_what_cannot_be_encoded()
    args = build_parser().parse_args(arguments)
    try:
        code = args.run(args)
        if sys.stdout is not None:  # as where the shell has closed it
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough; Python would flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sentence = printable(" ".join(str(error).split()))
        if args.json:
            print(json.dumps({"error": sentence}))
        print(f"pir {args.command}: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"pir {args.command}: interrupted; what has been written is kept, run the command again for the rest.",
            file=sys.stderr,
        )
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser("pir", description="Search satellite images by sentence or image.")
    parser.add_argument("--version", action="version", version=f"pir {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_index(subparsers)
    add_rows(subparsers)
    add_search(subparsers)
    add_embed(subparsers)
    add_localize(subparsers)
    add_classify(subparsers)
    add_serve(subparsers)
    add_demo(subparsers)
    add_convert(subparsers)
    add_export(subparsers)
    return parser
