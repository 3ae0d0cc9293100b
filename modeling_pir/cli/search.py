"""`pir search`: the images of an index that a sentence or an image finds."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..index.export import write_hits
from ..index.hit_pictures import write_sheet
from .options import Subparsers, add_command, add_model, load_model
from .text import table

if TYPE_CHECKING:
    from ..index.hit import Hit


def add_search(subparsers: Subparsers) -> None:
    """Options of `pir search`."""
    parser = add_command(
        subparsers,
        "search",
        _search,
        "find the images or parts of scenes that fit a sentence or an image best",
        'pir search "planes beside a terminal" --index archive.lance -k 5 --picture found.png --geojson found.geojson',
    )
    parser.add_argument("sentence", nargs="?", help="what to look for; or give --image")
    parser.add_argument("--image", metavar="FILE", help="an image to find others like it")
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    add_model(parser, required=False)
    parser.add_argument("-k", type=int, default=10, help="hits at most (default: %(default)s)")
    parser.add_argument("--where", metavar="SQL", help="filter, such as \"sensor = 'NAIP' AND date >= '2019'\"")
    parser.add_argument("--scene", default="", help="only this scene label")
    parser.add_argument("--after", default="", metavar="DATE", help="only from this day, month or year on")
    parser.add_argument("--before", default="", metavar="DATE", help="only up to this day, month or year, included")
    parser.add_argument("--box", default="", metavar="W,S,E,N", help="only what touches this box; --box=-99,46,-98,47")
    parser.add_argument("--exact", action="store_true", help="compare all vectors, even of a large index")
    parser.add_argument("--picture", metavar="PNG", help="write the hits as a sheet of pictures")
    parser.add_argument("--geojson", metavar="FILE", help="write the hits' footprints for a map")


def _search(args: argparse.Namespace) -> int:
    """Search, print the hits, write them as a sheet and as GeoJSON."""
    from ..index.filters import filter_clause
    from ..index.pir_index import PIRIndex
    from ..inference.images import open_image

    if (args.sentence is None) == (args.image is None):
        raise ValueError("Say what to look for: either a sentence or --image FILE.")
    if args.sentence is not None and not args.sentence.strip():
        raise ValueError(f"The query is empty ({args.sentence!r}): write a sentence.")
    query = args.sentence if args.image is None else open_image(args.image)
    clauses = [args.where, filter_clause(args.scene, args.after, args.before, args.box)]
    where = " AND ".join(f"({clause})" for clause in clauses if clause) or None
    index = PIRIndex.open(args.index)
    if where:
        index.store.count(where)  # a filter that cannot be understood is refused before the model is loaded
    index.attach(*load_model(args, index))
    hits = index.search(query, args.k, where, args.exact)
    if args.picture:
        write_sheet(args.picture, hits)
    if args.geojson:
        write_hits(args.geojson, hits)
    found = [asdict(hit) for hit in hits]
    print(json.dumps({"query": args.sentence or args.image, "hits": found}) if args.json else _search_text(hits))
    return 0


def _search_text(hits: Sequence["Hit"]) -> str:
    """The hits as a table."""
    if not hits:
        return "nothing found"
    rows = [("rank", "similarity", "date", "sensor", "scene", "window", "path")]
    for rank, hit in enumerate(hits, start=1):
        window = ",".join(map(str, hit.window or ()))
        known = (hit.date or "", hit.sensor or "", hit.scene or "")
        rows.append((str(rank), f"{hit.similarity:.3f}", *known, window, hit.path))
    return table(rows)
