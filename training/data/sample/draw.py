"""The synthetic sample data set: drawn overhead scenes, with five captions derived from each drawing.

It is what `python -m training.train` uses unless told otherwise, and the data of the tests. To see it as files, in the
folder layout that `--data MY_FOLDER` accepts:

    python -m training.data.sample.draw OUT_DIR
"""

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from tqdm.auto import tqdm

from training.data.sample.canvas import Canvas
from training.data.sample.captions import write_captions
from training.data.sample.layouts import LAYOUTS

SCENES: tuple[str, ...] = tuple(LAYOUTS)
NUM_IMAGES = {"train": 700, "validation": 140, "test": 140}
FEATURES = Features(
    {
        "filename": Value("string"),
        "image": ImageFeature(),
        "captions": List(Value("string")),
        "scene": Value("string"),
        "boxes": List(List(Value("float64"))),
    }
)


@dataclass
class Drawing:
    """One drawn scene.

    Attributes:
        image: RGB.
        captions: five true sentences.
        scene: one of `SCENES`.
        boxes: (left, top, right, bottom) of each named thing, in shares of the side, 0 to 1.
        names: what each box holds, in singular: "plane".
    """

    image: Image.Image
    captions: list[str]
    scene: str
    boxes: list[tuple[float, float, float, float]]
    names: list[str]


def draw_scene(rng: np.random.Generator, scene: str, size: int = 144) -> Drawing:
    """Draw one scene and say what is on it.

    Args:
        rng: source of all that is random: the same state gives the same pixels and captions.
        scene: one of `SCENES`.
        size: side of the image, pixels.

    Returns:
        The drawing.

    Raises:
        ValueError: for a scene that is not in `SCENES`.
    """
    if scene not in SCENES:
        raise ValueError(f"There is no scene {scene!r} to draw: choose one of {', '.join(SCENES)}.")
    canvas = Canvas(rng, size)
    facts = LAYOUTS[scene](canvas)
    return Drawing(canvas.finish(), write_captions(rng, scene, facts), scene, canvas.boxes, canvas.names)


def load_sample(split: str, seed: int = 0) -> Dataset:
    """Draw a split of the sample data set: the scenes in turn, so that each is as frequent as any other.

    Args:
        split: train, validation or test.
        seed: another seed draws another data set.

    Returns:
        Rows with `filename`, `image` (PNG), `captions`, `scene` and `boxes`.

    Raises:
        ValueError: for a split that does not exist.
    """
    if split not in NUM_IMAGES:
        raise ValueError(f"The sample has no split {split!r}: choose one of {', '.join(NUM_IMAGES)}.")
    split_index = list(NUM_IMAGES).index(split)
    first_number = sum(list(NUM_IMAGES.values())[:split_index])
    rows: dict[str, list] = {column: [] for column in FEATURES}
    for i in range(NUM_IMAGES[split]):
        # A generator per image: an image does not depend on how many were drawn before it.
        drawing = draw_scene(np.random.default_rng([seed, split_index, i]), SCENES[i % len(SCENES)])
        filename = f"{drawing.scene}_{first_number + i}.png"
        png = io.BytesIO()
        drawing.image.save(png, format="PNG", compress_level=1)
        # Without a path, which datasets would open in the place of bytes that are missing.
        values = (filename, {"bytes": png.getvalue(), "path": None}, drawing.captions, drawing.scene, drawing.boxes)
        for column, value in zip(FEATURES, values, strict=True):
            rows[column].append(value)
    return Dataset.from_dict(rows, features=FEATURES)


def write_folder(out_dir: Path) -> None:
    """Write the three splits as image folders, each with its metadata.jsonl.

    Args:
        out_dir: gets the folders train, validation and test; made where missing.
    """
    for split in NUM_IMAGES:
        folder = out_dir / split
        folder.mkdir(parents=True, exist_ok=True)
        rows = load_sample(split).cast_column("image", ImageFeature(decode=False))
        with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
            for row in tqdm(rows, desc=split, unit="image"):
                (folder / row["filename"]).write_bytes(row["image"]["bytes"])
                facts = {"file_name": row["filename"], "captions": row["captions"], "scene": row["scene"]}
                metadata.write(json.dumps(facts) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """The command: write the sample as folders."""
    parser = argparse.ArgumentParser(
        description="Write the drawn sample data set as image folders with metadata.jsonl."
    )
    parser.add_argument("out_dir", type=Path, help="gets the folders train, validation and test")
    write_folder(parser.parse_args(arguments).out_dir)


if __name__ == "__main__":
    main()
