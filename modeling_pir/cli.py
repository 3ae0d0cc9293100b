"""The `pir` command: index an archive, search it, embed data sets, and what else a model is good for.

    pir index /data/archive --index archive.lance --model org/pir-rsicd
    pir search "planes beside a terminal" --index archive.lance --picture found.png

Exit codes: 0 all done; 1 done, but some files could not be read (they are listed); 2 nothing done, one sentence says
why; 130 interrupted.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bulk import ShardReport
    from .index import AddReport, Hit, PIRIndex
    from .index_files import EmbeddedFile
    from .modeling_pir import PIRModel
    from .processing_pir import PIRProcessor

SHIPPED_MODEL = Path(__file__).parents[1] / "hub_configs" / "pir-mini-rsicd"  # in a checkout; not in a wheel
MAX_LISTED = 20  # paths that are printed; --json has them all
SHEET_COLUMNS = 5
TILE_SIZE = 224  # pixels
CAPTION_HEIGHT = 34

Subparsers = argparse._SubParsersAction


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None takes the command line's.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["convert"]:  # has its own options
        return _convert(arguments[1:])
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sentence = " ".join(str(error).split())
        if args.json:
            print(json.dumps({"error": sentence}))
        print(f"pir {args.command}: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pir {args.command}: interrupted; what was written is kept, run it again for the rest.", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser("pir", description="Find satellite images by a sentence.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_index(subparsers)
    _add_search(subparsers)
    _add_embed(subparsers)
    _add_localize(subparsers)
    _add_classify(subparsers)
    _add_demo(subparsers)
    subparsers.add_parser("convert", help="turn a checkpoint of the official code into a folder for from_pretrained")
    return parser


def _add_command(subparsers: Subparsers, name: str, run: object, summary: str, example: str) -> argparse.ArgumentParser:
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


def _add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Options that say which model, and where it runs."""
    default = "" if required else " (default: the one that made the index; for a new one, that of this checkout)"
    parser.add_argument("--model", required=required, help=f"Hub id or folder of a PIR model{default}")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at once (default: %(default)s)")


def _add_chips(parser: argparse.ArgumentParser, overlap: float) -> None:
    """Options of how scenes are cut."""
    parser.add_argument("--chip-size", type=int, default=224, help="pixels of a chip's side (default: %(default)s)")
    parser.add_argument("--ground-resolution", type=float, help="metres per pixel of a chip (default: the file's own)")
    parser.add_argument(
        "--overlap", type=float, default=overlap, help="share of a side that chips share (default: %(default)s)"
    )
    parser.add_argument(
        "--bands", type=int, nargs=3, metavar=("RED", "GREEN", "BLUE"), help="band numbers from 1 (default: found out)"
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Options of where bulk work is done."""
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this process, or Ray's workers")
    parser.add_argument("--workers", type=int, help="Ray: processes with a model each (default: one per GPU)")
    parser.add_argument("--address", help='Ray: of a cluster, such as "auto" (default: start Ray here)')


def _load(args: argparse.Namespace, index: "PIRIndex | None" = None) -> tuple["PIRModel", "PIRProcessor"]:
    """The model that is named, or the one that made the index."""
    import torch

    from .hub import load_pretrained

    name, revision = args.model, args.revision
    if name is None and index is not None:
        name, revision = index.metadata["model_id"], index.metadata["revision"]
    if name is None:
        if not SHIPPED_MODEL.is_dir():
            raise ValueError("No model is named: add --model with a Hub id or a folder.")
        print(f"No model is named: the small one of this checkout is used, {SHIPPED_MODEL.name}.", file=sys.stderr)
        name = str(SHIPPED_MODEL)
    model, processor = load_pretrained(name, revision)
    return model.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu")), processor


def _add_index(subparsers: Subparsers) -> None:
    """Options of `pir index`."""
    parser = _add_command(
        subparsers,
        "index",
        _index,
        "add a folder of images and scenes to an index, or what has changed in it",
        "pir index /data/archive --index archive.lance --model org/pir-rsicd",
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="folder or file; a second run adds what is new")
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    _add_model(parser, required=False)
    _add_chips(parser, overlap=0.25)
    _add_cluster(parser)
    parser.add_argument("--delete-missing", action="store_true", help="also delete what is gone from the folder")
    parser.add_argument("--delete", metavar="SQL", help="delete rows, such as \"scene = 'airport'\"")
    parser.add_argument("--export", metavar="FILE", help="write all rows to a .geojson or .parquet file")
    parser.add_argument(
        "--check", nargs="?", type=int, const=100, metavar="QUERIES", help="recall against exact search (100 queries)"
    )


def _index(args: argparse.Namespace) -> int:
    """Do what is asked for, in the order: add, delete, export, check."""
    if not args.sources and args.delete is None and args.export is None and args.check is None:
        raise ValueError("There is nothing to do: name a SOURCE, or one of --delete, --export and --check.")
    if args.delete_missing and not (len(args.sources) == 1 and os.path.isdir(args.sources[0])):
        raise ValueError("--delete-missing needs exactly one SOURCE, the folder whose state the index is to take.")
    index = _open_or_create(args)
    result: dict = {"index": index.path, "engine": index.store.kind}
    if args.sources:
        result |= asdict(_add_sources(index, args))
    if args.delete is not None:
        result["deleted"] = result.get("deleted", 0) + index.delete(args.delete)
    if args.export is not None:
        result |= {"export": args.export, "exported": index.export(args.export)}
    if args.check is not None:
        result["recall@10"] = index.check(args.check)
    result["rows"] = len(index)
    print(json.dumps(result) if args.json else _index_text(result))
    return 1 if result.get("errors") else 0


def _open_or_create(args: argparse.Namespace) -> "PIRIndex":
    """The index that is named; made if there are sources to put into it."""
    from .index import PIRIndex

    try:
        return PIRIndex.open(args.index)
    except ValueError:
        if not args.sources or ("://" not in args.index and os.path.exists(args.index)):
            raise
    for source in args.sources:
        if not os.path.exists(source):
            raise ValueError(f"{source} does not exist: name a folder of images and scenes, or one of them.")
    return PIRIndex.create(args.index, *_load(args))


def _add_sources(index: "PIRIndex", args: argparse.Namespace) -> "AddReport":
    """Add what is new; the model is loaded only if there is something to embed, or if another one is named."""
    from .index import PIRIndex

    scan = index.scan(*args.sources)
    files = scan.new + scan.changed
    named = args.model and (os.path.abspath(args.model) if os.path.isdir(args.model) else args.model)
    is_other = named not in (None, index.metadata["model_id"]) or args.revision not in (
        None,
        index.metadata["revision"],
    )
    if index.model is None and (files or is_other):
        index = PIRIndex.open(index.path, *_load(args, index))
    embedded = _embed(index, files, scan.labels, args) if files else ()
    return index.write(embedded, scan, args.delete_missing)


def _embed(index: "PIRIndex", files: list[str], labels: dict, args: argparse.Namespace) -> Iterator["EmbeddedFile"]:
    """Embed files here or on Ray."""
    from .index_files import ChipOptions, embed_files

    chips = ChipOptions(args.chip_size, args.ground_resolution, args.overlap, args.bands and tuple(args.bands))
    if args.engine == "local":
        return embed_files(index.model, index.processor, files, chips, labels, args.batch_size, not args.json)
    from .bulk import ray_embed_files

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


def _index_text(result: dict) -> str:
    """What was done, in lines."""
    lines = [f"{result['index']}: {result['rows']:,} rows ({result['engine']} index)"]
    if "added" in result:
        lines[0] += f", {result['added']:,} added, {result['unchanged']:,} files unchanged"
    if result.get("deleted"):
        lines[0] += f", {result['deleted']:,} deleted"
    if "exported" in result:
        lines.append(f"{result['exported']:,} rows written to {result['export']}")
    if "recall@10" in result:
        lines.append(f"recall@10 against exact search: {result['recall@10']:.3f}")
    if result.get("unplaced"):
        lines.append(f"{len(result['unplaced'])} scenes do not say where they lie, and have no footprint:")
        lines += _listed(result["unplaced"])
    if result.get("skipped"):
        lines.append(f"{len(result['skipped'])} files are no images and were passed over:")
        lines += _listed(result["skipped"])
    if result.get("errors"):
        lines.append(f"{len(result['errors'])} files could not be indexed:")
        lines += _listed([sentence for _, sentence in result["errors"]])
    return "\n".join(lines)


def _listed(items: Sequence[str]) -> list[str]:
    """Indented lines, not too many."""
    lines = [f"  {item}" for item in items[:MAX_LISTED]]
    return lines if len(items) <= MAX_LISTED else [*lines, f"  ... and {len(items) - MAX_LISTED} more (--json has all)"]


def _add_search(subparsers: Subparsers) -> None:
    """Options of `pir search`."""
    parser = _add_command(
        subparsers,
        "search",
        _search,
        "find the images or parts of scenes that fit a sentence or an image best",
        'pir search "planes beside a terminal" --index archive.lance -k 5 --picture found.png --geojson found.geojson',
    )
    parser.add_argument("sentence", nargs="?", help="what to look for; or give --image")
    parser.add_argument("--image", metavar="FILE", help="an image to find others like it")
    parser.add_argument("--index", required=True, help="folder, file or address (s3://...) of the index")
    _add_model(parser, required=False)
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
    from .images import open_image
    from .index import PIRIndex
    from .page import filter_clause

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
    index = PIRIndex.open(args.index, *_load(args, index))
    hits = index.search(query, args.k, where, args.exact)
    if args.picture:
        write_sheet(args.picture, hits)
    if args.geojson:
        _write_hits(args.geojson, hits)
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
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry; empty ones are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = (zip(row, widths, strict=True) for row in zip(*columns, strict=True))
    return "\n".join("  ".join(text.ljust(width) for text, width in line).rstrip() for line in lines)


def write_sheet(path: str | Path, hits: Sequence["Hit"]) -> None:
    """Draw the hits on one sheet, each with rank, similarity, file name and date.

    Args:
        path: of the picture.
        hits: most similar first.

    Raises:
        OSError: the picture cannot be written.
    """
    from PIL import Image, ImageDraw

    from .page import gallery_items

    num_columns = min(SHEET_COLUMNS, max(1, len(hits)))
    num_rows = max(1, -(-len(hits) // num_columns))
    sheet = Image.new("RGB", (num_columns * TILE_SIZE, num_rows * (TILE_SIZE + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(gallery_items(hits)):
        left, top = number % num_columns * TILE_SIZE, number // num_columns * (TILE_SIZE + CAPTION_HEIGHT)
        image.thumbnail((TILE_SIZE - 4, TILE_SIZE - 4))
        sheet.paste(image, (left + 2, top + 2))
        rank, similarity, *rest = caption.split(" · ")
        name = " ".join(rest)
        name = name if len(name) <= 34 else f"...{name[-31:]}"
        draw.text((left + 4, top + TILE_SIZE), f"{rank}: {similarity}\n{name}", fill="black", font_size=11)
    sheet.save(path)


def _write_hits(path: str, hits: Sequence["Hit"]) -> None:
    """Write the hits as GeoJSON, their rank and similarity among the properties."""
    from .index_export import write_geojson

    features = []
    for rank, hit in enumerate(hits, start=1):
        properties = asdict(hit)
        footprint = properties.pop("footprint")
        known = {name: value for name, value in properties.items() if value is not None}
        features.append({"type": "Feature", "geometry": footprint, "properties": {"rank": rank} | known})
    write_geojson(Path(path), features)


def _add_embed(subparsers: Subparsers) -> None:
    """Options of `pir embed`."""
    parser = _add_command(
        subparsers,
        "embed",
        _embed_shards,
        "embed the images of a data set of Parquet files, one output for each; what is there is skipped",
        "pir embed /data/parquet --output embeddings --model org/pir-rsicd --engine ray",
    )
    parser.add_argument("source", help="Parquet file, folder or pattern, local or an address; or a data set's id")
    parser.add_argument("--output", required=True, help="folder or address to write to")
    parser.add_argument("--column", default="image", help="that holds the images (default: %(default)s)")
    _add_model(parser)
    _add_cluster(parser)


def _embed_shards(args: argparse.Namespace) -> int:
    """Embed a data set."""
    from .bulk import embed_shards, list_shards, ray_embed_shards
    from .index import describe_model

    shards = list_shards(args.source, args.output)
    model, processor = _load(args)
    if args.engine == "ray":
        description = describe_model(model)
        cluster = {"address": args.address, "num_workers": args.workers, "progress": not args.json}
        reports = ray_embed_shards(description, shards, args.column, args.batch_size, **cluster)
    else:
        reports = embed_shards(model, processor, shards, args.column, args.batch_size, progress=not args.json)
    reports = list(reports)
    print(json.dumps({"shards": [asdict(report) for report in reports]}) if args.json else _embed_text(reports))
    return 1 if any(report.errors or report.failure for report in reports) else 0


def _embed_text(reports: Sequence["ShardReport"]) -> str:
    """What was done, in lines."""
    num_rows, num_skipped = sum(report.rows for report in reports), sum(report.skipped for report in reports)
    lines = [f"{num_rows:,} rows embedded, {len(reports)} shards of which {num_skipped} were there already"]
    failures = [report.failure for report in reports if report.failure]
    bad = [f"{report.source}, row {row}: {sentence}" for report in reports for row, sentence in report.errors]
    if failures:
        lines += [f"{len(failures)} shards could not be read:", *_listed(failures)]
    if bad:
        lines += [f"{len(bad)} images could not be read, their rows have an error and no embedding:", *_listed(bad)]
    return "\n".join(lines)


def _add_localize(subparsers: Subparsers) -> None:
    """Options of `pir localize`."""
    parser = _add_command(
        subparsers,
        "localize",
        _localize,
        "find the places of one large scene that fit a sentence, as a heat map",
        'pir localize scene.tif "a pond in farmland" --output maps --model org/pir-rsicd',
    )
    parser.add_argument("scene", help="GeoTIFF or another raster")
    parser.add_argument("sentence", help="what to look for")
    parser.add_argument("--output", default=".", help="folder of the PNG and the GeoTIFF (default: here)")
    parser.add_argument("--places", type=int, default=5, help="best places that are listed (default: %(default)s)")
    _add_model(parser)
    _add_chips(parser, overlap=0.5)


def _localize(args: argparse.Namespace) -> int:
    """Draw the heat map and list the best places."""
    from .localize import localize

    if not os.path.exists(args.scene):
        raise ValueError(f"{args.scene} does not exist: name a scene.")
    found = localize(
        *_load(args),
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
    print(f"{_table(rows)}\n{found.num_chips} chips compared; written: {found.picture} and {found.geotiff}")
    return 0


def _add_classify(subparsers: Subparsers) -> None:
    """Options of `pir classify`."""
    parser = _add_command(
        subparsers,
        "classify",
        _classify,
        "say which of some labels fits images best, without training for them",
        "pir classify photo.jpg --labels airport,forest,harbor --model org/pir-rsicd",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--labels", required=True, help="separated by commas")
    parser.add_argument(
        "--template", default="an aerial image of {}", help="sentence of a label (default: %(default)s)"
    )
    _add_model(parser)


def _classify(args: argparse.Namespace) -> int:
    """Probabilities of the labels: softmax of the scaled similarities, as `PIRModel.forward` scales them."""
    from .embed import embed_images, embed_texts
    from .images import open_image
    from .modeling_pir import MAX_LOGIT_SCALE

    labels = list(dict.fromkeys(label.strip() for label in args.labels.split(",") if label.strip()))
    if len(labels) < 2:
        raise ValueError(f"--labels {args.labels!r} names {len(labels)} labels: give two or more, separated by commas.")
    if "{}" not in args.template:
        raise ValueError(f"--template {args.template!r} has no {{}}: put it where the label goes.")
    images = [open_image(path) for path in args.images]
    model, processor = _load(args)
    texts = embed_texts(model, processor, [args.template.replace("{}", label) for label in labels])
    similarity = embed_images(model, processor, images, args.batch_size) @ texts.T  # (images, labels)
    scale = model.logit_scale.detach().float().cpu().exp().clamp(max=MAX_LOGIT_SCALE)
    probabilities = (scale * similarity).softmax(dim=-1).tolist()
    rows = [("image", "label", "probability")]
    results = []
    for path, values in zip(args.images, probabilities, strict=True):
        ranked = sorted(zip(labels, values, strict=True), key=lambda pair: -pair[1])
        results.append({"image": path, "probabilities": dict(ranked)})
        rows += [(path, label, f"{value:.3f}") for label, value in ranked[:5]]
    print(json.dumps(results) if args.json else _table(rows))
    return 0


def _add_demo(subparsers: Subparsers) -> None:
    """Options of `pir demo`."""
    parser = _add_command(
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
    _add_model(parser, required=False)


def _demo(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from .index import PIRIndex
    from .page import launch

    if (args.images is None) == (args.index is None):
        raise ValueError("Name either a FOLDER of images or an --index.")
    if args.images is not None and not os.path.isdir(args.images):
        raise ValueError(f"{args.images} is no folder: name one with images or scenes in it.")
    if args.index is not None:
        model, processor = _load(args, PIRIndex.open(args.index))
        launch(PIRIndex.open(args.index, model, processor), model, processor, args.host, args.port)
        return 0
    model, processor = _load(args)
    with tempfile.TemporaryDirectory() as folder:
        index = PIRIndex.create(os.path.join(folder, "images.index"), model, processor)
        report = index.update(args.images, args.batch_size, progress=True)
        facts = {"index": args.images, "engine": index.store.kind, "rows": len(index)}
        print(_index_text(facts | asdict(report)))
        launch(index, model, processor, args.host, args.port)
    return 0


def _convert(arguments: Sequence[str]) -> int:
    """Hand over to the converter, which has its own options and examples."""
    from .convert_pir_checkpoint_to_hf import main as convert

    sys.argv = ["pir convert", *arguments]
    convert()
    return 0
