"""Find test images and captions that are also in the training data: in another split or another data set.

    python -m training.leakcheck --train rsicd --test rsicd --output-dir runs/leak_rsicd
    python -m training.leakcheck --train FOLDER --test ucm --test-splits train validation test

Two images count as the same picture if, in some turn or mirroring, their perceptual hashes are similar (`imagehash`,
`pip install "modeling-pir[eval]"`) and their details correlate, shifted by up to an eighth of the side. Uncertain
pairs, such as one place on two dates, are listed for a person to judge. Larger shifts and other scales are not found.
It writes leaks.json, removal.txt (training files to leave out, one per line), report.md and pairs.png.
"""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset

from modeling_pir.errors import one_sentence
from training.data.duplicates import (
    DOUBT_FROM,
    MAX_BITS,
    MAX_SHIFT,
    ORIENTATIONS,
    SAME_FROM,
    SIDE,
    Pair,
    find_pairs,
    fingerprints,
)
from training.data.sources import load_image_captions
from training.report.pictures import pairs_picture
from training.report.tables import markdown_table

NUM_SHOWN = 8  # pairs in the picture, of each kind
NUM_LISTED = 30  # pairs in a table of the report


def shared_captions(train: dict[str, Dataset], test: dict[str, Dataset]) -> dict[str, Any]:
    """Captions of the test side that are, word for word, on the training side, too.

    Args:
        train: split name to rows.
        test: split name to rows.

    Returns:
        `captions` of the test side, how many of them are `shared`, the number of `distinct` shared ones, test `images`
        all of whose captions are shared, and the `most_common` ten with their counts in training and test.
    """
    in_train = Counter(text for rows in train.values() for captions in rows["captions"] for text in captions)
    of_images = [captions for rows in test.values() for captions in rows["captions"]]
    in_test = Counter(text for captions in of_images for text in captions)
    shared = {text: count for text, count in in_test.items() if text in in_train}
    most = sorted(shared, key=lambda text: (-in_train[text] - shared[text], text))[:10]
    return {
        "captions": in_test.total(),
        "shared": sum(shared.values()),
        "distinct": len(shared),
        "images": sum(all(text in in_train for text in captions) for captions in of_images),
        "most_common": [{"caption": text, "train": in_train[text], "test": shared[text]} for text in most],
    }


def check_leaks(train: dict[str, Dataset], test: dict[str, Dataset], output_dir: Path) -> dict[str, Any]:
    """Compare two sides and write leaks.json, removal.txt, report.md and, where there are pairs, pairs.png.

    Args:
        train: `data/split` to rows.
        test: `data/split` to rows.
        output_dir: folder to write to.

    Returns:
        What is in leaks.json.
    """
    train_prints = fingerprints(train, ["as it is"])
    test_prints = fingerprints(test, list(ORIENTATIONS))
    pairs = find_pairs(train_prints, test_prints)
    both_ends = find_pairs(test_prints, test_prints)
    within = [pair for pair in both_ends if pair.train < pair.test]
    same, doubtful = ([pair for pair in pairs if pair.is_same == wanted] for wanted in (True, False))
    removal = sorted({pair.train.split("/", 2)[2] for pair in same})
    result = {
        "train": {name: len(rows) for name, rows in train.items()},
        "test": {name: len(rows) for name, rows in test.items()},
        "limits": {"bits": MAX_BITS, "same_from": SAME_FROM, "doubt_from": DOUBT_FROM, "max_shift": MAX_SHIFT / SIDE},
        "pairs": [asdict(pair) for pair in same],
        "doubtful_pairs": [asdict(pair) for pair in doubtful],
        "pairs_within_test": [asdict(pair) for pair in within if pair.is_same],
        "doubtful_pairs_within_test": [asdict(pair) for pair in within if not pair.is_same],
        "removal": removal,
        "shared_captions": shared_captions(train, test),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "leaks.json").write_text(json.dumps(result, indent=2))
    (output_dir / "removal.txt").write_text("".join(f"{name}\n" for name in removal))
    (output_dir / "report.md").write_text(write_report(result))
    shown = [*pairs[:NUM_SHOWN], *within[:NUM_SHOWN]]
    if shown:
        _draw_pairs(shown, train | test, output_dir / "pairs.png")
    return result


def describe(pair: dict[str, Any]) -> str:
    """A pair in a few words."""
    if pair["identical"]:
        return "the same pixels"
    return f"{pair['orientation']}, {pair['bits']} of 64 bits differ, correlation {pair['correlation']:.3f}"


def _draw_pairs(pairs: list[Pair], splits: dict[str, Dataset], path: Path) -> None:
    rows_of = {
        f"{split}/{name}": (rows, i) for split, rows in splits.items() for i, name in enumerate(rows["filename"])
    }
    names = [(pair.train, pair.test) for pair in pairs]
    images = [tuple(rows_of[name][0][rows_of[name][1]]["image"] for name in both) for both in names]
    pairs_picture(images, names, [describe(asdict(pair)) for pair in pairs], path)


def write_report(result: dict[str, Any]) -> str:
    """The findings as Markdown.

    Args:
        result: of [`check_leaks`].

    Returns:
        The text.
    """
    sides = [
        ", ".join(f"{name} ({count} images)" for name, count in result[side].items()) for side in ("train", "test")
    ]
    captions, limits, pairs, within = (
        result[name] for name in ("shared_captions", "limits", "pairs", "pairs_within_test")
    )
    lines = [
        "# Leak check",
        f"Training side: {sides[0]}. Test side: {sides[1]}.",
        "## Images",
        f"- Pairs of a training and a test image taken for one picture: {len(pairs)}, of which "
        f"{sum(pair['identical'] for pair in pairs)} pixel by pixel; test images concerned: "
        f"{len({pair['test'] for pair in pairs})}. removal.txt names the training images of these pairs; "
        "look at them first (pairs.png), places built or painted alike can pass for one.\n"
        f"- Pairs for a person to judge, one place on two dates or places that look alike: "
        f"{len(result['doubtful_pairs'])}.\n"
        f"- Pairs within the test side taken for one picture: {len(within)}. Whichever is asked for, the other one is "
        "wrong.",
        f"Compared are perceptual hashes (at most {limits['bits']} of 64 bits differ) of the test images in eight "
        f"orientations, then the correlation of details at {SIDE} pixels, shifted by up to {limits['max_shift']:.1%} "
        f"of the side (one picture from {limits['same_from']}, to be judged from {limits['doubt_from']}). Larger "
        "shifts and other scales are not found.",
        *_pairs_table("One picture, training and test", pairs),
        *_pairs_table("To be judged, training and test", result["doubtful_pairs"]),
        *_pairs_table("One picture, both in test", within),
        *_pairs_table("To be judged, both in test", result["doubtful_pairs_within_test"]),
        "## Captions",
        f"{captions['shared']} of {captions['captions']} test captions ({captions['distinct']} distinct ones) are, "
        f"word for word, on the training side, too; of {captions['images']} test images all captions are. Such "
        "captions are general sentences and no reason to remove an image, but a model can know them by heart.",
    ]
    if captions["most_common"]:
        rows = [[line["caption"], str(line["train"]), str(line["test"])] for line in captions["most_common"]]
        lines.append(markdown_table(["caption", "in training", "in test"], rows))
    return "\n\n".join(lines) + "\n"


def _pairs_table(title: str, pairs: list[dict[str, Any]]) -> list[str]:
    if not pairs:
        return []
    rows = [[pair["train"], pair["test"], describe(pair)] for pair in pairs[:NUM_LISTED]]
    more = f"\n\n{len(pairs) - NUM_LISTED} more are in leaks.json." if len(pairs) > NUM_LISTED else ""
    return [markdown_table([title, "", ""], rows, num_left=3) + more]


def load_side(source: str, splits: Sequence[str], split_list: str | None) -> dict[str, Dataset]:
    """The splits of a data set, by the name `data/split` that reports use."""
    label = Path(source).name.replace("/", "_") or source
    return {f"{label}/{split}": load_image_captions(source, split, split_list) for split in splits}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m training.leakcheck",
        description="Find test images and captions that are also in the training data.",
        allow_abbrev=False,
    )
    parser.add_argument("--train", required=True, help="training data, as --data of training.train")
    parser.add_argument("--test", required=True, help="test data; may be the same")
    parser.add_argument(
        "--train-splits", nargs="+", default=["train"], help="splits of the training data (default: train)"
    )
    parser.add_argument("--test-splits", nargs="+", default=["test"], help="splits of the test data (default: test)")
    parser.add_argument(
        "--split-list", help="published split of the training data, and of the test data if it is the same"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs/leakcheck"), help="(default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args(arguments)
    with one_sentence():
        train = load_side(args.train, args.train_splits, args.split_list)
        test = load_side(args.test, args.test_splits, args.split_list if args.test == args.train else None)
        both = sorted(set(train) & set(test))
        if both:
            raise ValueError(
                f"{both[0]!r} is on both sides: name a split of the training side and another of the test side."
            )
        result = check_leaks(train, test, args.output_dir)
    print(
        f"{len(result['pairs'])} pairs, {len(result['removal'])} training images to remove, "
        f"{len(result['doubtful_pairs'])} pairs to judge, {len(result['pairs_within_test'])} pairs within test, "
        f"{result['shared_captions']['shared']} shared captions: see {args.output_dir / 'report.md'}."
    )


if __name__ == "__main__":
    main()
