"""`pir localize`: where in a large scene a sentence applies."""

import argparse
import json
import os
from dataclasses import asdict

from .options import Subparsers, add_chips, add_command, add_model, load_model
from .text import printable, table


def add_localize(subparsers: Subparsers) -> None:
    """Options of `pir localize`."""
    parser = add_command(
        subparsers,
        "localize",
        _localize,
        "map where in a large scene a sentence applies",
        'pir localize scene.tif "a pond in farmland" --output maps --model org/pir-rsicd',
    )
    parser.add_argument("scene", help="GeoTIFF or another raster")
    parser.add_argument("sentence", help="what to look for")
    parser.add_argument(
        "--output", required=True, help="folder for the PNG and the GeoTIFF, preferably outside the archive"
    )
    parser.add_argument("--places", type=int, default=5, help="number of places to list (default: %(default)s)")
    add_model(parser)
    add_chips(parser, overlap=0.5)
    parser.set_defaults(chip_size=224, overlap=0.5, max_nodata=0.5)


def _localize(args: argparse.Namespace) -> int:
    """Draw the heat map and list the best places."""
    from ..geo.localize import localize

    if not args.allow_references and not os.path.exists(args.scene):
        raise ValueError(f"{args.scene} does not exist: name the file of a scene.")
    found = localize(
        load_model(args),
        args.scene,
        args.sentence,
        args.output,
        args.chip_size,
        args.ground_resolution,
        args.overlap,
        args.bands,
        args.places,
        args.batch_size,
        progress=not args.json,
        max_nodata=args.max_nodata,
        allow_references=args.allow_references,
    )
    places = [asdict(place) for place in found.places]
    files = {"picture": str(found.picture), "geotiff": str(found.geotiff), "crs": found.crs}
    if args.json:
        print(json.dumps({"places": places, **files}))
        return 0
    rows = [("rank", "similarity", "window", "bounds")]
    for rank, place in enumerate(found.places, start=1):
        bounds = ",".join(f"{degrees:.5f}" for degrees in place.bounds or ())
        rows.append((str(rank), f"{place.similarity:.3f}", ",".join(map(str, place.window)), bounds))
    written = printable(f"{found.picture} and {found.geotiff}")
    print(f"{table(rows)}\n{found.num_chips} chips compared; written: {written}")
    return 0
