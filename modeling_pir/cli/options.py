"""Options shared by several commands, and loading the model they name."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..index.pir_index import PIRIndex
    from ..inference.encoder import Encoder


SHIPPED_MODEL = Path(__file__).parents[2] / "hub_configs" / "pir-small-rsicd"  # in a checkout; not in a wheel
Subparsers = argparse._SubParsersAction


def add_command(subparsers: Subparsers, name: str, run: object, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand with an example in its help."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    return parser


def at_least_one(text: str) -> int:
    """The type of an option that counts something.

    Raises:
        argparse.ArgumentTypeError: no whole number, or one below 1.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on.")
    return int(text)


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Options for the model and where it runs."""
    default = "" if required else " (default: the index's own model; for a new index, the one in this checkout)"
    parser.add_argument("--model", required=required, help=f"Hub id or folder of PIR, CLIP, SigLIP...{default}")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--device", help="for example cpu or cuda:1 (default: a GPU if available)")
    parser.add_argument(
        "--batch-size", type=at_least_one, default=64, help="images encoded at once (default: %(default)s)"
    )


def add_chips(parser: argparse.ArgumentParser, overlap: float) -> None:
    """Options for cutting scenes into chips; None where they are not given."""
    parser.add_argument("--chip-size", type=at_least_one, help="side of a chip in pixels (default: 224)")
    parser.add_argument(
        "--ground-resolution",
        type=float,
        help="metres per pixel of a chip (default: the model's; 0.01 keeps the file's own, however fine)",
    )
    parser.add_argument(
        "--overlap", type=float, help=f"overlap of neighbouring chips, as a share of their side (default: {overlap})"
    )
    add_bands(parser, "detected")
    parser.add_argument("--max-nodata", type=float, help="leave out chips with a larger share of nodata (default: 0.5)")
    parser.add_argument(
        "--allow-references",
        action="store_true",
        help="also open files that refer to others or to the network (VRT, s3://...); only for archives you trust",
    )


def add_bands(parser: argparse.ArgumentParser, default: str) -> None:
    """The option for the colour bands of a scene."""
    metavar = ("RED", "GREEN", "BLUE")
    parser.add_argument(
        "--bands", type=int, nargs=3, metavar=metavar, help=f"band numbers of a scene, from 1 (default: {default})"
    )


def given_chips(args: argparse.Namespace) -> dict[str, object]:
    """The options for cutting scenes that were given, as JSON values."""
    names = ("chip_size", "ground_resolution", "overlap", "bands", "max_nodata")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Options for running bulk work."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="run in this process or on Ray workers"
    )
    parser.add_argument(
        "--workers", type=at_least_one, help="Ray: number of workers, each with a model (default: one per GPU)"
    )
    parser.add_argument("--address", help='Ray: address of a cluster, such as "auto" (default: start Ray here)')


def check_can_be_written(path: str | None) -> None:
    """Refuse a file that cannot be written before the work whose result it is to hold.

    Raises:
        ValueError: its folder is missing or may not be written, or there is a folder of that name.
    """
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise ValueError(f"{path} cannot be written: name a file in a folder that exists and that you may write to.")


def load_model(args: argparse.Namespace, index: "PIRIndex | None" = None) -> "Encoder":
    """The model named by the options, or the one that made the index."""
    from ..inference.encoder import load_encoder

    name, revision = args.model, args.revision
    if name is None and index is not None:
        name, revision = index.metadata["model_id"], index.metadata["revision"]
    if name is None:
        if not SHIPPED_MODEL.is_dir():
            raise ValueError("No model is named: add --model with a Hub id or a folder.")
        print(f"No --model given: using {SHIPPED_MODEL.name} from this checkout.", file=sys.stderr)
        name = str(SHIPPED_MODEL)
    return load_encoder(name, revision, args.device)
