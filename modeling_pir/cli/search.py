"""`pir search`: search an index by sentences and images."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..index.export import check_hits_file, write_hits
from ..index.hit_pictures import write_sheet
from ..index.questions.query import Query
from .options import Subparsers, add_bands, add_command, add_model, check_can_be_written, load_model
from .text import table

if TYPE_CHECKING:
    from ..index.hit import Hit


def add_search(subparsers: Subparsers) -> None:
    """Options of `pir search`."""
    parser = add_command(
        subparsers,
        "search",
        _search,
        "search an index for the images or chips that best match a sentence or an image",
        'pir search "planes beside a terminal" --index archive.lance -k 5 --picture found.png --save found.geojson',
    )
    parser.add_argument(
        "sentences", nargs="*", metavar="SENTENCE", help="what to look for; several sentences are combined"
    )
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="find images similar to this one")
    add_bands(parser, "the file's own, else those of the index")
    parser.add_argument("--like", action="append", default=[], metavar="ROW", help="a relevant hit, by id or path")
    parser.add_argument("--unlike", action="append", default=[], metavar="ROW", help="a wrong hit, by id or path")
    parser.add_argument(
        "--not", dest="without", action="append", default=[], metavar="SENTENCE", help="what the images should not show"
    )
    parser.add_argument("--each", action="store_true", help="match any of the sentences instead of all together")
    parser.add_argument(
        "--image-weight",
        type=float,
        default=0.6,
        help="weight of --image relative to the sentences, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    add_model(parser, required=False)
    parser.add_argument("-k", type=int, default=10, help="maximum number of hits (default: %(default)s)")
    parser.add_argument("--where", metavar="SQL", help="filter, such as \"sensor = 'NAIP' AND date >= '2019'\"")
    parser.add_argument("--scene", default="", help="only images with this scene label")
    parser.add_argument("--after", default="", metavar="DATE", help="only from this day, month or year on")
    parser.add_argument("--before", default="", metavar="DATE", help="only up to and including this day, month or year")
    parser.add_argument(
        "--box", default="", metavar="W,S,E,N", help="only what intersects this box, in degrees: --box=-99,46,-98,47"
    )
    parser.add_argument("--area", metavar="GEOJSON", help="only what intersects the polygons of this file")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="leave out paths, such as '*/2019/*'"
    )
    parser.add_argument(
        "--group", choices=("place", "none"), default="place", help="one hit per place, or all (default: %(default)s)"
    )
    parser.add_argument("--root", metavar="FOLDER", help="where the archive is now (default: where it was indexed)")
    parser.add_argument(
        "--exact", action="store_true", help="compare with all vectors instead of using the vector index"
    )
    parser.add_argument("--picture", metavar="PNG", help="write the hits as a contact sheet")
    parser.add_argument(
        "--save", action="append", default=[], metavar="FILE", help="write the hits as .geojson, .csv or .parquet"
    )


def _search(args: argparse.Namespace) -> int:
    """Search, print the hits, write them as a sheet and as GeoJSON."""
    from ..index.filters import filter_clause
    from ..index.pir_index import PIRIndex

    index = PIRIndex.open(args.index, root=args.root)
    query = _query(args, index.cut_bands)
    for path in args.save:
        check_hits_file(path)
    for path in (args.picture, *args.save):
        check_can_be_written(path)
    clauses = [args.where, filter_clause(args.scene, args.after, args.before, args.box)]
    where = " AND ".join(f"({clause})" for clause in clauses if clause) or None
    if where:
        index.store.count(where)  # a filter that cannot be understood is refused before the model is loaded
    needs_model = query.images or args.model or args.revision or args.device
    if needs_model or ((query.sentences or query.without) and not index.use_text_encoder()):
        index.attach(load_model(args, index))
    doubts = index.doubts(query) if query.sentences else []
    hits = index.search(query, args.k, where, args.exact)
    if args.picture:
        write_sheet(args.picture, hits)
    for path in args.save:
        write_hits(path, hits, index.metadata)
    for doubt in doubts:
        print(f"pir search: {doubt}", file=sys.stderr)
    asked = " ".join([*args.sentences, *args.image])
    result = {"query": asked, "doubts": doubts, "hits": [asdict(hit) for hit in hits]}
    print(json.dumps(result) if args.json else _search_text(hits))
    return 0


def _query(args: argparse.Namespace, usual_bands: Sequence[int] | None) -> Query:
    """The query that the options describe; reads its area and images, so that errors in them come first."""
    from ..geo.raster import open_as_image
    from ..index.questions.area import Area

    if args.area is not None:
        Area(args.area)
    return Query(
        sentences=args.sentences,
        images=[open_as_image(path, args.bands, usual_bands=usual_bands) for path in args.image],
        like=args.like,
        unlike=args.unlike,
        without=args.without,
        combine="each" if args.each else "mean",
        image_weight=args.image_weight,
        area=args.area,
        exclude=args.exclude,
        group=args.group,
    )


def _search_text(hits: Sequence["Hit"]) -> str:
    """The hits as a table."""
    if not hits:
        return "nothing found"
    rows = [("rank", "similarity", "relevance", "others", "id", "date", "sensor", "scene", "window", "path")]
    for rank, hit in enumerate(hits, start=1):
        window = ",".join(map(str, hit.window or ()))
        known = (hit.date or "", hit.sensor or "", hit.scene or "")
        standing = "" if hit.relevance is None else f"{hit.relevance:+.1f}"
        others = f"+{hit.others}" if hit.others else ""
        path = f"{hit.path} (missing)" if hit.is_missing else hit.path
        rows.append((str(rank), f"{hit.similarity:.3f}", standing, others, hit.id[:8], *known, window, path))
    return table(rows)
