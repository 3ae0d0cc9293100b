"""Convert the official archives of RSICD, RSITMD, UCM-Captions and Sydney-Captions to Parquet.

    python -m training.data.prepare rsicd --annotations dataset_rsicd.json --images RSICD_images --output data/rsicd
    python -m training.data.prepare rsitmd --annotations dataset_RSITMD.json --images images --output data/rsitmd

The annotations are the JSON files of the archives: {"images": [{"filename", "split", "sentences": [{"raw"}]}]}. Counts
are checked against what is published. Files are copied as they are, pixels are not re-encoded.
"""

import argparse
import json
import logging
import os
from collections import Counter
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm

from modeling_pir.errors import one_sentence
from modeling_pir.inference.images import open_image
from training.data.catalog import NAMES, known_dataset
from training.data.rows import FEATURES, SPLIT_ALIASES

SYDNEY_COUNTS = {"train": 497, "validation": 58, "test": 58}
IMAGES_PER_SHARD = 4000


def read_annotations(path: Path, name: str) -> dict[str, list[dict]]:
    """Rows of each official split, without images.

    Args:
        path: the archive's JSON file.
        name: rsicd, rsitmd, ucm or sydney.

    Returns:
        Split name to rows of `filename`, `captions`, `scene`.

    Raises:
        ValueError: not that layout.
    """
    try:
        images = json.loads(path.read_text(encoding="utf-8-sig"))["images"]
        rows = [
            (image["split"], image["filename"], [sentence["raw"] for sentence in image["sentences"]])
            for image in images
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is not the archive's annotation file ({error!r}): expected a JSON with images, their "
            "filename, split and sentences."
        ) from error
    facts = known_dataset(name) if name in NAMES else None
    splits: dict[str, list[dict]] = {}
    for split, filename, captions in rows:
        scene = facts.scene_of(filename) if facts else None
        row = {"filename": filename, "captions": captions, "scene": scene}
        splits.setdefault(SPLIT_ALIASES.get(split, split), []).append(row)
    return splits


def check_counts(splits: dict[str, list[dict]], name: str) -> None:
    """Compare the number of images in each split with what is published.

    Raises:
        ValueError: with both, where they differ.
    """
    expected = known_dataset(name).official_counts if name in NAMES else SYDNEY_COUNTS
    found = {split: len(rows) for split, rows in splits.items()}
    if found != expected:
        raise ValueError(
            f"{name} should have {expected} images, but the annotations have {found}: the archive is incomplete or "
            "another version."
        )


def prepare(name: str, annotations: Path, images: Path, output: Path, any_counts: bool = False) -> Counter:
    """Write one parquet file a split and shard: SPLIT-0000i-of-0000n.parquet.

    Args:
        name: rsicd, rsitmd, ucm or sydney.
        annotations: the archive's JSON file.
        images: folder of its images.
        output: folder to write to.
        any_counts: accept other counts than the published ones.

    Returns:
        Images of each split.

    Raises:
        ValueError: annotations or counts that do not fit, an image that is missing or cannot be read.
    """
    splits = read_annotations(annotations, name)
    if not any_counts:
        check_counts(splits, name)
    for rows in splits.values():
        for row in tqdm(rows, desc=f"{name}: images", unit="image"):
            path = images / row["filename"]
            if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(images)):
                raise ValueError(
                    f"The annotations name {row['filename']!r}, which is not below {images}: correct them."
                )
            open_image(path)
            # Without a path: where a file of that name is at hand, `datasets` would keep its name and drop the bytes.
            row["image"] = {"bytes": path.read_bytes(), "path": None}
    output.mkdir(parents=True, exist_ok=True)
    counts = Counter()
    for split, rows in splits.items():
        dataset = Dataset.from_list(rows, features=FEATURES)
        num_shards = -(-len(dataset) // IMAGES_PER_SHARD)
        for index in range(num_shards):
            shard = dataset.shard(num_shards, index, contiguous=True)
            shard.to_parquet(str(output / f"{split}-{index:05d}-of-{num_shards:05d}.parquet"))
        counts[split] = len(dataset)
    return counts


def main() -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser("python -m training.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*NAMES, "sydney"])
    parser.add_argument("--annotations", type=Path, required=True, help="the archive's JSON file")
    parser.add_argument("--images", type=Path, required=True, help="folder of the archive's images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the Parquet files")
    parser.add_argument("--any-counts", action="store_true", help="accept counts that differ from the published ones")
    args = parser.parse_args()
    with one_sentence():
        counts = prepare(args.name, args.annotations, args.images, args.output, args.any_counts)
    print(f"{args.output}: " + ", ".join(f"{count} images in {split}" for split, count in counts.items()))


if __name__ == "__main__":
    main()
