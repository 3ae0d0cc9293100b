"""Measure what queries of several parts gain, on a captioned data set with scene names.

    python -m training.benchmarks.search.questions --model hub_configs/pir-small-rsicd --data FOLDER_OF_RSICD_PARQUET \
        --split-list rsicd --split test

Five tasks, each with the functions that `PIRIndex.search` uses:

- marks: for each scene name as the sentence, the first three right and the first three wrong rows are marked;
  precision at 20 over the other rows, before and after; once more for each thing of `THINGS`, which is right where a
  caption names it, and harder to find;
- without: for each pair of things A and B where at least a fifth of the first 20 rows for A have B in a caption: the
  share of B, and of A, for "A" and for "A" without "B";
- both: an image and a thing W that it lacks; right is what has the image's scene and W in a caption; precision at 10 by
  the sentence, by the image, and by both;
- doubts: how many queries of the two lists in tests/reference are doubted; thresholds were set with the first list in
  view, and none with the one that is held out;
- hubness: recall of caption to image with and without the correction.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modeling_pir import load_encoder
from modeling_pir.index.pir_index import SAMPLE_ROWS
from modeling_pir.index.questions.bank import BANK_NAME, bank_embeds, bank_sentences
from modeling_pir.index.questions.doubts import doubts_about, shattered_below
from modeling_pir.index.questions.query import Query
from modeling_pir.index.questions.ranking import chance_level, corrected, hubness, prominence
from modeling_pir.index.questions.vectors import combine, learn_from_marks, leave_out
from modeling_pir.inference.onnx_text import Reading
from training.data.sources import load_image_captions
from training.evaluation.split_embeddings import embed_rows

THINGS = {  # a sentence, and the words by which a caption is known to name it
    "trees": "trees?", "buildings": "buildings?", "a road": "roads?", "cars": "cars?", "houses": "houses?",
    "a river": "rivers?", "a bridge": "bridges?", "planes": "planes?", "water": "water", "grass": "grass|lawn|meadows?",
    "sand": "sand|beach", "a playground": "playgrounds?", "a swimming pool": "pools?", "boats": "boats?|ships?",
    "a parking lot": "parking", "mountains": "mountains?", "a pond": "ponds?", "a football field": "football",
    "a square": "squares?", "a railway": "railways?|rails?",
}  # fmt: skip
REFERENCE = Path(__file__).parents[3] / "tests" / "reference"
QUERIES = (REFERENCE / "doubtful_queries.json", REFERENCE / "doubtful_queries_held_out.json")
NUM_MARKS, NUM_SHOWN, NUM_IMAGES = 3, 20, 600
MIN_SHARE, MAX_SHARE, MIN_RIGHT = 0.2, 0.6, 10


def first(similarity: np.ndarray, count: int, left_out: set[int] = frozenset()) -> list[int]:
    """Positions of the highest values."""
    order = np.argsort(-similarity, kind="stable")[: count + len(left_out)]
    return [row for row in order.tolist() if row not in left_out][:count]


def measure_marks(
    images: np.ndarray, right_rows: dict[str, np.ndarray], sentences: dict[str, np.ndarray]
) -> dict[str, float]:
    """Precision at 20 over sentences before and after three rows are marked right and three wrong, percent."""
    before, after = [], []
    for name, query in sentences.items():
        is_right = right_rows[name]
        if is_right.sum() < NUM_SHOWN + NUM_MARKS:
            continue
        order = np.argsort(-(images @ query), kind="stable")
        right, wrong = order[is_right[order]][:NUM_MARKS], order[~is_right[order]][:NUM_MARKS]
        marked = {*right.tolist(), *wrong.tolist()}
        moved = learn_from_marks(query, images[right], images[wrong])
        for vector, results in ((query, before), (moved, after)):
            results.append(is_right[first(images @ vector, NUM_SHOWN, marked)].mean())
    weak = [number for number, share in enumerate(before) if share < 0.8]
    return {
        "questions": len(before),
        "before": 100 * float(np.mean(before)),
        "after": 100 * float(np.mean(after)),
        "weak (before below 80)": len(weak),
        "weak before": 100 * float(np.mean([before[number] for number in weak])),
        "weak after": 100 * float(np.mean([after[number] for number in weak])),
    }


def measure_without(images: np.ndarray, has: dict[str, np.ndarray], things: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of A and of B in the first 20 rows for A, and for A without B, percent."""
    shares = []
    for wanted, query in things.items():
        for unwanted, vector in things.items():
            before = first(images @ query, NUM_SHOWN)
            if wanted == unwanted or has[unwanted][before].mean() < MIN_SHARE:
                continue
            after = first(images @ leave_out(query, vector[None]), NUM_SHOWN)
            shares.append([has[thing][rows].mean() for thing in (unwanted, wanted) for rows in (before, after)])
    names = ("B for A", "B for A without B", "A for A", "A for A without B")
    means = (100 * np.array(shares)).mean(axis=0).tolist()
    fewer = float(np.mean([after < before for before, after, *_ in shares]))
    return {"pairs": len(shares)} | dict(zip(names, means, strict=True)) | {"pairs with fewer B": 100 * fewer}


def measure_both(
    images: np.ndarray, scenes: np.ndarray, has: dict[str, np.ndarray], things: dict[str, np.ndarray]
) -> dict[str, float]:
    """Precision at 10 of sentence, image and both, for rows of an image's scene with a thing that it lacks, percent."""
    shares = []
    weight = Query("a").image_weight
    for row in np.random.default_rng(0).permutation(len(images))[:NUM_IMAGES].tolist():
        for thing, vector in things.items():
            is_right = (scenes == scenes[row]) & has[thing]
            share = is_right.sum() / max(1, (scenes == scenes[row]).sum() - 1)
            if has[thing][row] or is_right.sum() < MIN_RIGHT or share > MAX_SHARE:
                continue
            both = combine(vector[None], images[row][None], weight)
            shares.append([is_right[first(images @ query, 10, {row})].mean() for query in (vector, images[row], both)])
    return {"questions": len(shares)} | dict(
        zip(("sentence", "image", "both"), (100 * np.array(shares)).mean(axis=0).tolist(), strict=True)
    )


def measure_doubts(reading: Reading, embed: Callable, images: np.ndarray, bank: np.ndarray) -> dict[str, str]:
    """How many queries of each kind are doubted.

    Args:
        reading: of the model.
        embed: sentences to vectors (sentences, dim).
        images: (rows, dim) of the archive.
        bank: (sentences, dim).
    """
    threshold = shattered_below(bank_sentences(), reading.tokenizer)
    found, level = {}, chance_level(images, bank)
    for file in QUERIES:
        for kind, texts in json.loads(file.read_text()).items():
            doubted = [
                text
                for text in texts
                if doubts_about(text, reading, threshold) or prominence(embed([text]), images)[0] < level
            ]
            wrong = doubted if kind == "legitimate" else [text for text in texts if text not in doubted]
            found[f"{file.stem}, {kind}"] = f"{len(doubted)} of {len(texts)}; wrong: {', '.join(wrong) or 'none'}"
    return found


def measure_hubness(similarity: np.ndarray, offsets: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """Mean of caption-to-image R@1, 5 and 10 without and with the correction, percent; ties count against us."""
    recalls = {}
    for name, scores in (("plain", similarity), ("corrected", corrected(similarity, offsets))):
        right = scores[np.arange(len(scores)), image_of]
        ranks = (scores >= right[:, None]).sum(axis=1)
        recalls[name] = float(np.mean([(ranks <= k).mean() * 100 for k in (1, 5, 10)]))
    return {f"bank {BANK_NAME}, {name}": value for name, value in recalls.items()}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m training.benchmarks.search.questions", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--data", required=True, help="with scene names; see training.evaluate")
    parser.add_argument("--split-list", help="rsicd, rsitmd or ucm")
    parser.add_argument("--split", default="test")
    args = parser.parse_args(arguments)
    encoder = load_encoder(args.model)
    rows = load_image_captions(args.data, args.split, args.split_list)
    embeddings = embed_rows(encoder, rows, 64)
    images, texts = embeddings.image_embeds.numpy(), embeddings.text_embeds.numpy()
    scenes = np.array(rows["scene"])
    captions = [" ".join(captions).lower() for captions in rows["captions"]]
    has = {
        thing: np.array([re.search(rf"\b({words})\b", text) is not None for text in captions])
        for thing, words in THINGS.items()
    }
    things = dict(zip(THINGS, encoder.embed_texts(list(THINGS)).numpy(), strict=True))
    names = sorted(set(scenes.tolist()))
    sentences = dict(zip(names, encoder.embed_texts(names).numpy(), strict=True))
    bank = bank_embeds(encoder, "this")
    offsets = hubness(images, bank, encoder.logit_scale)
    measured = {
        "marks, scenes": measure_marks(images, {name: scenes == name for name in names}, sentences),
        "marks, things": measure_marks(images, has, things),
        "without": measure_without(images, has, things),
        "both": measure_both(images, scenes, has, things),
        "doubts": measure_doubts(
            encoder.reading, lambda texts: encoder.embed_texts(texts).numpy(), images[:SAMPLE_ROWS], bank
        ),
        "hubness": measure_hubness(texts @ images.T, offsets, embeddings.text_to_image.numpy()),
    }
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
