"""Rows of captioned images: their schema, their checks, what is known of a split."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import torch
import torchvision.transforms.v2.functional as TF
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from modeling_pir.inference.images import map_ahead, open_image

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    **dict.fromkeys(("val", "valid", "dev", "eval"), "validation"),
    **dict.fromkeys(("training", "restval"), "train"),  # the latter in Karpathy's splits
    "testing": "test",
}
FEATURES = Features(
    {"filename": Value("string"), "image": ImageFeature(), "captions": List(Value("string")), "scene": Value("string")}
)


def image_column(kinds: Mapping[str, object]) -> str:
    """The column of a source's features that holds images: one of images, or of bytes and paths, or else "image"."""
    images = [column for column, kind in kinds.items() if isinstance(kind, ImageFeature)]
    pairs = [column for column, kind in kinds.items() if isinstance(kind, dict) and {"bytes", "path"} <= set(kind)]
    return [*images, *pairs, "image"][0]


def has_words(caption: str) -> bool:
    """Whether a caption has a letter or a digit."""
    return any(map(str.isalnum, caption))


def check_captions(rows: Dataset) -> Dataset:
    """Refuse images without caption and empty captions; leave out captions without a single letter or digit."""
    wordless = []
    for filename, captions in zip(rows["filename"], rows["captions"], strict=True):
        if not captions:
            raise ValueError(f"The image {filename!r} has no caption: add one, or leave the image out.")
        for caption in captions:
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError(f"The image {filename!r} has an empty caption ({caption!r}): remove or fill it.")
        worded = list(map(has_words, captions))
        if not any(worded):
            raise ValueError(f"No caption of the image {filename!r} has a word ({captions[0]!r}): write one.")
        if not all(worded):
            wordless.append(filename)
    if wordless:
        logger.warning("Captions without a word (such as ' .') are left out, of: %s", ", ".join(wordless))

        def with_words(row: dict) -> dict:
            return {"captions": [caption for caption in row["captions"] if has_words(caption)]}

        rows = rows.map(with_words, desc="captions")
    return rows


def join_captions(rows: Dataset, split: str) -> Dataset:
    """One row for each image: rows of the same file name and the same image are joined, in order of the first.

    Args:
        rows: `filename` (None where the source has none), `image`, `captions`, `scene`.
        split: names the images that have no name.

    Returns:
        The rows, each with the captions of all its lines and a name.
    """
    names = list(rows["filename"])
    if None not in names and len(set(names)) == len(names):
        return rows
    places_of: dict[tuple, list[int]] = {}
    images = rows.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))
    for place, (name, row) in enumerate(zip(names, images, strict=True)):
        image = image_bytes_or_path(row["image"])
        image = hashlib.sha256(image).digest() if isinstance(image, bytes) else image
        places_of.setdefault((name, image), []).append(place)
    groups = list(places_of.values())
    captions, scenes = list(rows["captions"]), list(rows["scene"])
    columns = {
        "filename": [names[places[0]] or f"{split}_{number}" for number, places in enumerate(groups)],
        "captions": [[caption for place in places for caption in captions[place]] for places in groups],
        "scene": [next((scenes[place] for place in places if scenes[place]), None) for places in groups],
    }
    joined = rows.select([places[0] for places in groups]).select_columns(["image"])
    for name, values in columns.items():
        joined = joined.add_column(name, values, feature=FEATURES[name])
    return joined.select_columns(list(FEATURES))


def image_bytes_or_path(record: dict | None) -> bytes | str:
    """What an undecoded image of `datasets` holds; no bytes where a row has no image."""
    if record is None or (record["bytes"] is None and record["path"] is None):
        return b""
    return record["bytes"] if record["bytes"] is not None else record["path"]


def check_images(
    rows: Dataset, split: str, skip_bad_images: bool, process_index: int = 0, num_processes: int = 1
) -> Dataset:
    """Decode every image once; stop at the first that cannot be, or leave such images out, counted and listed.

    Args:
        rows: of the split.
        split: its name.
        skip_bad_images: leave them out.
        process_index: of this process.
        num_processes: that decode a part each and tell the others of it.
    """
    undecoded = rows.cast_column("image", ImageFeature(decode=False))

    def problem_of(index: int) -> str | None:
        row = undecoded[index]
        try:
            open_image(image_bytes_or_path(row["image"]), row["filename"])
        except ValueError as error:
            return str(error)
        return None

    own = range(process_index, len(undecoded), num_processes)
    with ThreadPoolExecutor() as pool:
        found = list(zip(own, pool.map(problem_of, own), strict=True))
    found = gather_object(found) if num_processes > 1 else found
    problems = [problem for _, problem in sorted(found, key=itemgetter(0))]
    bad = [index for index, problem in enumerate(problems) if problem]
    if bad and not skip_bad_images:
        raise ValueError(
            f"{problems[bad[0]]} ({len(bad)} such images in {split!r}; --skip-bad-images leaves them out.)"
        )
    if bad:
        logger.warning("%d unreadable images of %r are left out:", len(bad), split)
        for index in bad:
            logger.warning("  %s", problems[index])
        rows = rows.select([index for index, problem in enumerate(problems) if not problem])
    if not len(rows):
        raise ValueError(f"No image of the split {split!r} can be read.")
    return rows


def scene_names(rows: Dataset) -> list[str]:
    """Names of the scenes in the rows, sorted; the position is the label."""
    return sorted({scene for scene in rows["scene"] if scene})


def fingerprint(rows: Dataset) -> str:
    """Short hash of file names and captions, to tell whether two runs saw the same data."""
    digest = hashlib.sha256()
    for filename, captions in zip(rows["filename"], rows["captions"], strict=True):
        digest.update(json.dumps([filename, captions]).encode())
    return digest.hexdigest()[:16]


def decode_image(row: dict) -> torch.Tensor:
    """Decoded image (3, height, width) uint8 of a row whose `image` is undecoded; ValueError names one that is bad."""
    return TF.pil_to_tensor(open_image(image_bytes_or_path(row["image"]), row["filename"]))


def decoded_images(rows: Dataset) -> Iterator[Image.Image]:
    """The images of the rows, one after the other, as RGB; the next are decoded while one is used."""
    undecoded = rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False))
    return map_ahead(lambda row: open_image(image_bytes_or_path(row["image"]), row["filename"]), undecoded)


def dataset_facts(rows: Dataset) -> dict[str, int | str]:
    """Counts of a split, and a fingerprint that changes with any file name, caption or their order.

    Args:
        rows: with `filename` and `captions`.

    Returns:
        `images`, `captions`, `distinct_captions`, `shared_captions` (captions that another image has, too, word for
        word) and `fingerprint`.
    """
    captions = list(rows["captions"])
    num_images_with = Counter(caption for of_image in captions for caption in set(of_image))
    return {
        "images": len(captions),
        "captions": sum(len(of_image) for of_image in captions),
        "distinct_captions": len(num_images_with),
        "shared_captions": sum(num_images_with[caption] > 1 for of_image in captions for caption in of_image),
        "fingerprint": fingerprint(rows),
    }
