"""Evaluate models on data sets under one protocol, with a report. The command is `python -m training.evaluate`.

    python -m training.evaluate --model openai/clip-vit-base-patch32 --model runs/rsicd_mini/best \
        --data rsicd --data FOLDER --output-dir runs/evaluation

With --output-dir: metrics.json, report.md and pictures. Without it: the table alone.
"""

import argparse
import json
import logging
import platform
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset

from modeling_pir.errors import need, one_sentence
from modeling_pir.index.questions.bank import BANK_NAME
from modeling_pir.inference.belief import belief_picture
from modeling_pir.inference.encoder import Encoder, PIREncoder, load_encoder
from training.data.catalog import NAMES
from training.data.loader import split_facts
from training.data.rows import decoded_images, scene_names
from training.data.sources import load_image_captions
from training.evaluation.bootstrap import (
    NUM_RESAMPLES,
    QueryTable,
    bootstrap_weights,
    paired_difference,
    split_statistics,
)
from training.evaluation.hubness import corrected_embeddings
from training.evaluation.metrics import chance_metrics
from training.evaluation.ranks import QueryRanks
from training.evaluation.split_embeddings import SplitEmbeddings, embed_rows, turned_embeddings
from training.evaluation.zero_shot import TEMPLATES, scene_embeds, zero_shot_metrics
from training.report.evaluation_report import terminal_table, write_report
from training.report.pictures import (
    NUM_BELIEF_IMAGES,
    PICTURE_SEED,
    confusion_picture,
    map_picture,
    recall_curves_picture,
    retrieval_gallery,
)
from training.report.published import benchmark_of
from training.run.environment import PACKAGES, ROOT, git_state, package_version

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXTRA_PACKAGES = ("sentence-transformers", "scikit-learn")
NUM_CURVE_KS = 30  # points of the curve of chance
MIN_MAP_IMAGES = 5


def unique_labels(sources: list[str], num_parts: int) -> list[str]:
    """Short names of models or data: a Hub id or known name as it is, of a path its last parts.

    Args:
        sources: as given on the command line.
        num_parts: of a path; 2 tells runs apart, whose models are all called best.

    Returns:
        One label for each, no two alike; the whole source where short ones would be.

    Raises:
        ValueError: the same source twice.
    """
    twice = next((source for source in sources if sources.count(source) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is given twice: give each model and each data set once.")
    labels = [
        "/".join(Path(source).resolve().parts[-num_parts:]) if Path(source).exists() else source for source in sources
    ]
    return [source if labels.count(label) > 1 else label for source, label in zip(sources, labels, strict=True)]


def model_facts(source: str, encoder: Encoder) -> dict[str, Any]:
    """What is known of a model: family, class, size, revision, and how it was trained if its run folder is at hand.

    Args:
        source: Hub id or folder.
        encoder: the loaded model.

    Returns:
        A dict ready for JSON; `training` is None where nothing is known.
    """
    config = getattr(encoder.model, "config", None)
    settings, test = Path(source).parent / "config.yaml", Path(source).parent / "test.json"
    training = None
    if Path(source).is_dir() and settings.is_file() and test.is_file():  # a run of training.train
        run = yaml.safe_load(settings.read_text())
        training = {name: run.get(name) for name in ("data", "split_list", "seed", "epochs", "init_from", "backbones")}
        training["epoch"] = json.loads(test.read_text())["epoch"] + 1
    return {
        "source": source,
        "family": encoder.family,
        "class": type(encoder.model).__name__,
        "parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
        "revision": getattr(config, "_commit_hash", None),
        "caption_cleaning": getattr(getattr(encoder, "processor", None), "caption_cleaning", None),
        "training": training,
    }


def measure(
    encoder: Encoder, rows: Dataset, batch_size: int, dtype: torch.dtype | None
) -> tuple[dict[str, Any], SplitEmbeddings, QueryTable, QueryRanks]:
    """Embed a split and measure everything.

    Args:
        encoder: the model.
        rows: of the split.
        batch_size: images or texts encoded at once.
        dtype: precision to compute in, None for the weights' own.

    Returns:
        What metrics.json holds of a model on a split, and what it was computed from.
    """
    embeddings = embed_rows(encoder, rows, batch_size, dtype, progress=True)
    start = perf_counter()
    measured, table, ranks = split_statistics(embeddings, rows["scene"])
    seconds = embeddings.seconds | {"statistics": perf_counter() - start}
    measured["zero_shot"] = measure_zero_shot(encoder, embeddings, rows, batch_size, dtype)
    return measured | {"dim": embeddings.image_embeds.shape[1], "seconds": seconds}, embeddings, table, ranks


def measure_zero_shot(
    encoder: Encoder, embeddings: SplitEmbeddings, rows: Dataset, batch_size: int, dtype: torch.dtype | None
) -> dict[str, Any] | None:
    """Scenes told by their names alone; None where the split has fewer than two."""
    scenes = scene_names(rows)
    if len(scenes) < 2:
        return None
    prompts = scene_embeds(encoder, scenes, batch_size, dtype)
    return zero_shot_metrics(embeddings.image_embeds, prompts, rows["scene"], scenes)


def draw_model(
    folder: Path,
    encoder: Encoder,
    rows: Dataset,
    embeddings: SplitEmbeddings,
    measured: dict[str, Any],
    label: str,
) -> list[str]:
    """Draw a model's pictures of a split: gallery, confusion, map, and belief maps of a PIR with an instruction.

    Args:
        folder: to draw into.
        encoder: the model.
        rows: of the split.
        embeddings: of the split.
        measured: of [`measure`].
        label: of the model.

    Returns:
        Names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, texts, text_to_image = embeddings.image_embeds, embeddings.text_embeds, embeddings.text_to_image
    gallery = folder / "gallery.png"
    retrieval_gallery(images, texts, embeddings.texts, rows["image"], text_to_image, gallery, seed=PICTURE_SEED)
    drawn = ["gallery.png"]
    zero_shot = measured["zero_shot"]
    if zero_shot is not None:
        title = f"{label}: scenes told by their names alone (zero-shot), {zero_shot['accuracy']:.1f} % right"
        confusion_picture(zero_shot["confusion"], list(zero_shot["scenes"]), folder / "confusion.png", title)
        drawn.append("confusion.png")
    if len(images) >= MIN_MAP_IMAGES:
        map_picture(images, rows["scene"], folder / "map.png", label)
        drawn.append("map.png")
    if isinstance(encoder, PIREncoder) and encoder.model.config.has_instruction:
        shown = rows.shuffle(seed=PICTURE_SEED).select(range(min(NUM_BELIEF_IMAGES, len(rows))))
        caption = f"{len(shown)} images, drawn at random (seed {PICTURE_SEED}), not chosen by result."
        titles = [captions[0] for captions in shown["captions"]]
        pictures = list(decoded_images(shown))
        belief_picture(encoder.model, encoder.processor, pictures, titles, folder / "belief.png", None, caption)
        drawn.append("belief.png")
    return drawn


def compare_on(
    encoders: dict[str, Encoder],
    rows: Dataset,
    batch_size: int,
    dtype: torch.dtype | None,
    hubness: bool = False,
    turns: bool = False,
) -> tuple[dict[str, Any], dict[str, SplitEmbeddings], dict[str, QueryRanks]]:
    """Measure models on one split and compare each with the first, image by image.

    Args:
        encoders: label to model.
        rows: of the split.
        batch_size: images or texts encoded at once.
        dtype: precision to compute in, None for the weights' own.
        hubness: measure each model once more, corrected for hubness, in a row of its own.
        turns: measure each model once more, its images averaged over quarter turns, in a row of its own.

    Returns:
        Facts of the split, its `ceiling` and `chance`, `models`, `differences` and `pictures` (none yet), ready for
        JSON; the embeddings and the ranks of each model, for pictures.
    """
    result: dict[str, Any] = split_facts(rows) | {"benchmark": benchmark_of(rows)}
    models, tables, ranks, embeddings = {}, {}, {}, {}
    for label, encoder in encoders.items():
        measured, embeddings[label], tables[label], ranks[label] = measure(encoder, rows, batch_size, dtype)
        result |= {"ceiling": measured.pop("ceiling"), "chance": measured.pop("chance")}
        models[label] = measured
        again: dict[str, dict[str, Any]] = {}  # rows of the same model to what is measured anew
        if turns:
            row = f"{label}, mean of four quarter turns"
            turned = turned_embeddings(encoder, rows, embeddings[label], batch_size, dtype, progress=True)
            again[row], tables[row], ranks[row] = split_statistics(turned, rows["scene"])
            again[row]["zero_shot"] = measure_zero_shot(encoder, turned, rows, batch_size, dtype)
        if hubness:
            row = f"{label}, corrected for hubness (bank {BANK_NAME})"
            corrected = corrected_embeddings(encoder, embeddings[label])
            again[row], tables[row], ranks[row] = split_statistics(corrected, rows["scene"])
        for row, statistics in again.items():
            models[row] = measured | {
                name: values for name, values in statistics.items() if name not in ("ceiling", "chance")
            }
    first, *others = models
    weights = bootstrap_weights(len(rows))
    columns = (("recall", "mR"), ("merged_recall", "mR"))
    result["differences"] = [
        {"first": first, "second": other, "metric": "/".join(column)}
        | paired_difference(tables[first], tables[other], weights, column)
        for other in others
        for column in columns
    ]
    return result | {"models": models, "pictures": {}}, embeddings, ranks


def draw_all(
    folder: Path,
    encoders: dict[str, Encoder],
    rows: Dataset,
    embeddings: dict[str, SplitEmbeddings],
    ranks: dict[str, QueryRanks],
    models: dict[str, Any],
) -> dict[str, list[str]]:
    """Draw the pictures of all models on one split.

    Args:
        folder: to draw into.
        encoders: label to model.
        rows: of the split.
        embeddings: of [`compare_on`].
        ranks: of [`compare_on`].
        models: what was measured, by label.

    Returns:
        Names of each model's files.
    """
    pictures = {}
    for label, encoder in encoders.items():
        name = label.replace("/", "_")
        drawn = draw_model(folder / name, encoder, rows, embeddings[label], models[label], label)
        pictures[label] = [f"{name}/{file}" for file in drawn]
    draw_curves(folder, ranks)
    return pictures


def draw_curves(folder: Path, ranks: dict[str, QueryRanks]) -> None:
    """Draw recall_at_k.png of all models, beside chance.

    Args:
        folder: of the data set, whose name is the title.
        ranks: by label of the model.
    """
    text_to_image = next(iter(ranks.values())).text_to_image
    ks = np.unique(np.geomspace(1, len(text_to_image), NUM_CURVE_KS).astype(int)).tolist()
    at_chance = chance_metrics(text_to_image, ks)
    num_images = int(text_to_image.max()) + 1
    chance = {k: at_chance[f"i2t_R@{k}"] for k in ks}, {k: at_chance[f"t2i_R@{k}"] for k in ks if k <= num_images}
    curves = {label: (of_model.image_ranks, of_model.text_ranks) for label, of_model in ranks.items()}
    recall_curves_picture(curves, chance, folder / "recall_at_k.png", folder.name)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run the command.

    Args:
        args: of [`parse_args`].

    Returns:
        What is in metrics.json.

    Raises:
        ValueError: bad models or data, before any model computes.
        ImportError: a model or a picture needs a package that is not installed.
    """
    if args.output_dir:
        need(
            "sklearn.manifold",
            "eval",
            "The map of the embeddings, which the report shows, needs scikit-learn, the package",
        )
    model_labels, data_labels = unique_labels(args.model, 2), unique_labels(args.data, 1)
    split_lists = args.split_list or [None] * len(args.data)
    if len(split_lists) != len(args.data):
        raise ValueError(
            f"--split-list is given {len(split_lists)} times and --data {len(args.data)} times: give one for each, in "
            'the same order ("none" for the data\'s own splits), or none at all.'
        )
    split_lists = [None if name == "none" else name for name in split_lists]
    splits = {
        label: load_image_captions(source, args.split, split_list, skip_bad_images=args.skip_bad_images)
        for label, source, split_list in zip(data_labels, args.data, split_lists, strict=True)
    }
    encoders = {label: load_encoder(source) for label, source in zip(model_labels, args.model, strict=True)}
    device = next(next(iter(encoders.values())).model.parameters()).device
    result: dict[str, Any] = {
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(ROOT),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in (*PACKAGES, *EXTRA_PACKAGES)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_threads": torch.get_num_threads(),
        "precision": args.dtype,
        "batch_size": args.batch_size,
        "resamples": NUM_RESAMPLES,
        "prompt_templates": list(TEMPLATES),
        "models": {
            label: model_facts(source, encoders[label]) for label, source in zip(model_labels, args.model, strict=True)
        },
        "data": {},
    }
    for label, source, split_list in zip(data_labels, args.data, split_lists, strict=True):
        measured, embeddings, ranks = compare_on(
            encoders, splits[label], args.batch_size, DTYPES[args.dtype], args.hubness, args.turns
        )
        facts = {"source": source, "split": args.split, "split_list": split_list} | measured
        result["data"][label] = facts
        if args.output_dir:
            write_numbers(args.output_dir, result)  # before the pictures, at which a machine may fail
            folder = args.output_dir / label.replace("/", "_")
            facts["pictures"] = draw_all(folder, encoders, splits[label], embeddings, ranks, facts["models"])
    return result


def write_numbers(folder: Path, result: dict[str, Any]) -> None:
    """Write metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(result, indent=2))


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m training.evaluate", description="Evaluate dual encoders on image-text retrieval.", allow_abbrev=False
    )
    parser.add_argument("--model", action="append", required=True, help="Hub id or folder; repeat to compare")
    parser.add_argument(
        "--data", action="append", required=True,
        help=f"{', '.join(NAMES)}, sample, a Hub id, a folder or a table of captions; repeat for several",
    )  # fmt: skip
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument(
        "--split-list", action="append", help="published split of each --data: rsicd, rsitmd, ucm, none"
    )
    parser.add_argument("--output-dir", type=Path, help="folder for metrics.json, report.md and pictures")
    parser.add_argument("--batch-size", type=int, default=64, help="images or texts encoded at once (default 64)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision to compute in (default float32)")
    parser.add_argument(
        "--hubness", action="store_true", help="add a row for each model, corrected for hubness as in pir search"
    )
    parser.add_argument(
        "--turns",
        action="store_true",
        help="add a row for each model, with image embeddings averaged over quarter turns",
    )
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out unreadable images and list them")
    args = parser.parse_args(arguments)
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}, but it has to be at least 1.")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args(arguments)
    with one_sentence():
        result = compare(args)
    for label in result["data"]:
        print(terminal_table(label, result["data"][label]))
    if args.output_dir is not None:
        write_numbers(args.output_dir, result)
        (args.output_dir / "report.md").write_text(write_report(result), encoding="utf-8")
        print(f"{args.output_dir / 'report.md'} is the report.")


if __name__ == "__main__":
    main()
