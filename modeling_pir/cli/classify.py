"""`pir classify`: zero-shot classification of images by label names."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .options import Subparsers, add_bands, add_command, add_model, load_model
from .text import printable, table

if TYPE_CHECKING:
    from PIL import Image


def add_classify(subparsers: Subparsers) -> None:
    """Options of `pir classify`."""
    parser = add_command(
        subparsers,
        "classify",
        _classify,
        "classify images zero-shot by label names",
        "pir classify photo.jpg --labels airport,forest,harbor --model org/pir-rsicd",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--labels", required=True, help="two or more, separated by commas")
    parser.add_argument(
        "--template", default="an aerial image of {}", help="sentence for a label (default: %(default)s)"
    )
    add_bands(parser, "detected")
    add_model(parser)


def _classify(args: argparse.Namespace) -> int:
    """Probabilities of the labels: softmax of the scaled similarities, as the model itself scales them."""
    labels = list(dict.fromkeys(label.strip() for label in args.labels.split(",") if label.strip()))
    if len(labels) < 2:
        raise ValueError(f"--labels {args.labels!r} names {len(labels)} labels: give two or more, separated by commas.")
    if "{}" not in args.template:
        raise ValueError(f"--template {args.template!r} has no {{}}: put {{}} where the label goes.")
    encoder = load_model(args)
    if encoder.logit_scale is None:
        raise ValueError(
            f"{args.model} has no logit scale, so its similarities are no probabilities: use a model trained with one."
        )
    texts = encoder.embed_texts([args.template.replace("{}", label) for label in labels])
    read: list[str] = []
    errors: dict[str, str] = {}
    images = _open_each(args.images, args.bands, read, errors)
    similarity = encoder.embed_images(images, args.batch_size) @ texts.T  # (images, labels)
    if not read:
        raise ValueError(next(iter(errors.values())))
    probabilities = (encoder.logit_scale * similarity).softmax(dim=-1).tolist()
    rows = [("image", "label", "probability")]
    results = []
    for path, values in zip(read, probabilities, strict=True):
        ranked = sorted(zip(labels, values, strict=True), key=lambda pair: -pair[1])
        results.append({"image": path, "probabilities": dict(ranked)})
        rows += [(path, label, f"{value:.3f}") for label, value in ranked[:5]]
    results += [{"image": path, "error": error} for path, error in errors.items()]
    print(json.dumps(results) if args.json else table(rows))
    for error in errors.values():
        print(f"pir classify: {printable(error)}", file=sys.stderr)
    return 1 if errors else 0


def _open_each(
    paths: Sequence[str], bands: Sequence[int] | None, read: list[str], errors: dict[str, str]
) -> "Iterator[Image.Image]":
    """The images that can be opened, one after the other; which they are, and what is wrong with the others."""
    from ..geo.raster import open_as_image

    for path in paths:
        try:
            image = open_as_image(path, bands)
        except ValueError as error:
            errors[path] = " ".join(str(error).split())
            continue
        read.append(path)
        yield image
