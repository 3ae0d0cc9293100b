"""Captioned images: from a source to rows, from rows to training items, from items to a batch.

Rows have one schema: `image` (datasets.Image), `captions` (list of strings), `scene` (string or None), `filename`.
"""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch
import torchvision.transforms.v2.functional as TF
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets, load_dataset
from datasets import Image as ImageFeature
from torch.utils.data import Dataset as TorchDataset

from modeling_pir import PIRProcessor
from modeling_pir.images import IMAGE_SUFFIXES, open_image
from training.augment import Augmentation
from training.known import NAMES, known_dataset
from training.sample import load_sample

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}


def load_image_captions(
    source: str,
    split: str,
    split_list: str | None = None,
    revision: str | None = None,
    skip_bad_images: bool = False,
) -> Dataset:
    """Load one split of captioned images, checked.

    Args:
        source: "sample" (drawn by code), a known name (rsicd, rsitmd, ucm), a Hub id, a folder of parquet files whose
            names start with their split, an image folder with metadata.jsonl (`file_name`, `captions` or `caption`,
            optional `scene` and `split`; one for the whole folder or one in each split's folder), or a CSV or JSON
            lines file of the same columns (`path` works for `file_name`).
        split: "train", "validation" ("val", "valid" and "dev" are the same) or "test".
        split_list: a known name whose published split re-assigns the images by their file names.
        revision: of a Hub data set.
        skip_bad_images: leave unreadable images out, counted and listed, instead of stopping.

    Returns:
        The rows.

    Raises:
        ValueError: a source, split, image or caption that cannot be used; one sentence names it.
    """
    split = SPLIT_ALIASES.get(split, split)
    if source == "sample":
        return load_sample(split)
    facts = known_dataset(split_list or source) if split_list or source in NAMES else None
    parts = _load_parts(source, revision, facts.hub_id if facts and source in NAMES else None)
    parts = {name: _with_schema(rows, name, facts) for name, rows in parts.items()}
    if split_list:
        rows = concatenate_datasets(list(parts.values()))
        assigned = [facts.split_of(filename) for filename in rows["filename"]]
        parts = {name: rows.select([i for i, own in enumerate(assigned) if own == name]) for name in SPLITS}
    elif list(parts) == ["all"]:
        parts = split_by_name(parts["all"])
    if split not in parts or not len(parts[split]):
        existing = ", ".join(name for name, rows in parts.items() if len(rows))
        raise ValueError(f"There is no split {split!r} in {source!r}: it has {existing or 'no images at all'}.")
    rows = check_captions(parts[split])
    return check_images(rows, split, skip_bad_images)


def _load_parts(source: str, revision: str | None, hub_id: str | None) -> dict[str, Dataset]:
    """Rows of every split of a source, by split name; {"all": rows} where it knows no splits."""
    path = Path(source)
    if path.is_file():
        return _read_table(path, path.parent)
    if path.is_dir():
        parquet = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        if parquet:
            files = {}
            for file in parquet:
                name = file.stem.split("-")[0]
                files.setdefault(SPLIT_ALIASES.get(name, name), []).append(str(file))
            return dict(load_dataset("parquet", data_files=files))
        return _read_image_folder(path)
    if hub_id is None and source in NAMES:
        raise ValueError(
            f"{known_dataset(source).name} is not on the Hub as far as we know: make a folder from the official "
            "archive with python -m training.prepare, and give that folder."
        )
    if hub_id is None and (path.suffix or source.count("/") != 1):
        raise ValueError(f"There is no data at {source!r}: give a folder, a CSV, a Hub id (org/name) or a known name.")
    loaded = load_dataset(hub_id or source, revision=revision)
    assert isinstance(loaded, DatasetDict)
    return {SPLIT_ALIASES.get(name, name): rows for name, rows in loaded.items()}


def _read_image_folder(folder: Path) -> dict[str, Dataset]:
    """Rows of a folder with metadata.jsonl (or .csv), in the folder itself or in a sub-folder for each split."""
    tables = [path for name in ("metadata.jsonl", "metadata.csv") for path in sorted(folder.glob(f"*/{name}"))]
    own = [folder / name for name in ("metadata.jsonl", "metadata.csv") if (folder / name).is_file()]
    if own:
        return _read_table(own[0], folder)
    if tables:
        names = {path: SPLIT_ALIASES.get(path.parent.name, path.parent.name) for path in tables}
        return {names[path]: rows for path in tables for rows in _read_table(path, path.parent).values()}
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
        raise ValueError(f"There are no images in {str(folder)!r}: give a folder with images and a metadata.jsonl.")
    raise ValueError(
        f"{str(folder)!r} has images but no captions: add a metadata.jsonl with lines like "
        '{"file_name": "a.jpg", "captions": ["..."]}.'
    )


def _read_table(table: Path, root: Path) -> dict[str, Dataset]:
    """Rows of a table of file names and captions; lines of one image are joined, in the order of their first line."""
    lines = pd.read_csv(table) if table.suffix == ".csv" else pd.read_json(table, lines=True)
    name_column = next((name for name in ("file_name", "path", "filename", "image") if name in lines), None)
    text_column = next((name for name in ("captions", "caption", "text") if name in lines), None)
    if name_column is None or text_column is None:
        raise ValueError(
            f"{str(table)!r} has the columns {', '.join(map(str, lines.columns))}: it needs file_name (or path) and "
            "captions (or caption)."
        )
    images: dict[str, dict] = {}
    for line in lines.to_dict("records"):
        file = str(root / str(line[name_column]))
        row = images.setdefault(file, {"captions": [], "scene": None, "split": None})
        captions = line[text_column]
        row["captions"] += captions if isinstance(captions, list) else [] if pd.isna(captions) else [str(captions)]
        for name in ("scene", "split"):
            if isinstance(line.get(name), str):
                row[name] = line[name]
    missing = [file for file in images if not Path(file).is_file()]
    if missing:
        raise ValueError(f"{str(table)!r} names {missing[0]!r}, which does not exist ({len(missing)} such files).")
    files_of: dict[str, list[str]] = {}
    for file, row in images.items():
        files_of.setdefault(SPLIT_ALIASES.get(row["split"], row["split"]) or "all", []).append(file)
    return {
        name: Dataset.from_dict(
            {
                "filename": [str(Path(file).relative_to(root)) for file in files],
                "image": files,
                "captions": [images[file]["captions"] for file in files],
                "scene": [images[file]["scene"] for file in files],
            }
        ).cast_column("image", ImageFeature())
        for name, files in files_of.items()
    }


def _with_schema(rows: Dataset, name: str, facts: object | None) -> Dataset:
    """The four columns, from what a source calls them; scenes of a known data set from its facts."""
    if "captions" not in rows.column_names:
        text_column = next((column for column in ("caption", "text") if column in rows.column_names), None)
        if text_column is None or "image" not in rows.column_names:
            raise ValueError(
                f"The split {name!r} has the columns {', '.join(rows.column_names)}: it needs image and captions."
            )
        captions = [[text] if isinstance(text, str) else text for text in rows[text_column]]
        rows = rows.add_column("captions", captions)
    if "filename" not in rows.column_names:
        rows = rows.add_column("filename", [f"{name}_{index}" for index in range(len(rows))])
    if not isinstance(rows.features["image"], ImageFeature):
        rows = rows.cast_column("image", ImageFeature())
    scenes = list(rows["scene"]) if "scene" in rows.column_names else [None] * len(rows)
    if isinstance(rows.features.get("scene"), ClassLabel):
        names = rows.features["scene"].names
        scenes = [names[label] if label is not None and label >= 0 else None for label in scenes]
    if facts is not None:
        scenes = [scene or facts.scene_of(filename) for scene, filename in zip(scenes, rows["filename"], strict=True)]
    if "scene" in rows.column_names:
        rows = rows.remove_columns("scene")
    rows = rows.add_column("scene", scenes, feature=Value("string"))
    return rows.select_columns(["filename", "image", "captions", "scene"])


def split_by_name(rows: Dataset) -> dict[str, Dataset]:
    """80 / 10 / 10 by a hash of the file name, so that an image keeps its split when others are added."""
    places = [int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 for name in rows["filename"]]
    names = ["validation" if place == 0 else "test" if place == 1 else "train" for place in places]
    logger.warning(
        "The data knows no splits: 80 %% of the images train, 10 %% validate, 10 %% test, by a hash of the file name."
    )
    return {split: rows.select([i for i, name in enumerate(names) if name == split]) for split in SPLITS}


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


def image_bytes_or_path(record: dict) -> bytes | str:
    """What an undecoded image of `datasets` holds."""
    return record["bytes"] if record["bytes"] is not None else record["path"]


def check_images(rows: Dataset, split: str, skip_bad_images: bool) -> Dataset:
    """Decode every image once; stop at the first that cannot be, or leave such images out, counted and listed."""
    undecoded = rows.cast_column("image", ImageFeature(decode=False))

    def problem_of(index: int) -> str | None:
        row = undecoded[index]
        try:
            open_image(image_bytes_or_path(row["image"]), row["filename"])
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem_of, range(len(undecoded))))
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


def item_seed(*place: int) -> int:
    """Seed of an item's captions and augmentation: a hash of the numbers that say which item it is."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def decode_image(row: dict) -> torch.Tensor:
    """Decoded image (3, height, width) uint8 of a row whose `image` is undecoded; ValueError names one that is bad."""
    return TF.pil_to_tensor(open_image(image_bytes_or_path(row["image"]), row["filename"]))


def draw_captions(texts: list[str], num_captions: int) -> list[str]:
    """Captions of an item in random order, without repeats where there are enough; none where there are none."""
    if not texts:  # scenes without captions
        return []
    order = torch.randperm(len(texts)).tolist()
    repeats = -(-num_captions // len(texts))
    return [texts[place] for place in (order * repeats)[:num_captions]]


class TrainItems(TorchDataset):
    """Training items of a split: an image with captions, augmented anew each epoch.

    What an item looks like depends on the seed, the epoch and its index alone, not on the order of access, the number
    of loader processes or of training processes.

    Args:
        rows: of [`load_image_captions`].
        scenes: of [`scene_names`]; other scenes get the label -1.
        captions_per_image: 0: an item is one caption with its image. n: an item is an image with n of its captions,
            drawn anew each epoch, without repeats where there are enough; none where the image has none.
        image_size: side of the augmented image, pixels.
        augment: False leaves the image as it is, to be resized by the processor.
        crop_scale: see [`Augmentation`].
        rand_augment: see [`Augmentation`].
        flips_and_turns: see [`Augmentation`].
        cache_images: keep decoded images in memory.
        seed: of captions and augmentation.
    """

    def __init__(
        self,
        rows: Dataset,
        scenes: list[str],
        captions_per_image: int,
        image_size: int,
        augment: bool = True,
        crop_scale: float = 0.5,
        rand_augment: bool = True,
        flips_and_turns: bool = True,
        cache_images: bool = False,
        seed: int = 0,
    ) -> None:
        self.images = rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False))
        self.captions = list(rows["captions"])
        label_of = {scene: label for label, scene in enumerate(scenes)}
        self.labels = [label_of.get(scene, -1) for scene in rows["scene"]]
        self.captions_per_image = captions_per_image
        self.pairs = [(image, caption) for image, texts in enumerate(self.captions) for caption in range(len(texts))]
        self.augmentation = Augmentation(image_size, crop_scale, rand_augment, flips_and_turns) if augment else None
        self.seed = seed
        self.epoch = 0
        self.cache: list[torch.Tensor] | None = None
        if cache_images:  # filled here and not on demand, so that loader processes share it
            with ThreadPoolExecutor() as pool:
                self.cache = list(pool.map(self._decode, range(len(rows))))

    def __len__(self) -> int:
        return len(self.captions) if self.captions_per_image else len(self.pairs)

    def set_epoch(self, epoch: int) -> None:
        """Choose what is drawn; call it before each epoch."""
        self.epoch = epoch

    def _decode(self, image: int) -> torch.Tensor:
        return decode_image(self.images[image])

    def __getitem__(self, index: int) -> dict:
        """An item: `pixels` (3, height, width) uint8, `captions` list, `image_id`, `scene_label`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item_seed(self.seed, self.epoch, index))
            if self.captions_per_image:
                image, captions = index, draw_captions(self.captions[index], self.captions_per_image)
            else:
                image, caption = self.pairs[index]
                captions = [self.captions[image][caption]]
            pixels = self._decode(image) if self.cache is None else self.cache[image]
            if self.augmentation is not None:
                pixels = self.augmentation(pixels, captions)
        return {"pixels": pixels, "captions": captions, "image_id": image, "scene_label": self.labels[image]}


class TrainCollator:
    """Make a batch of items: named tensors that [`PIRModel`] takes.

    Args:
        processor: of the model.
        return_loss: add `return_loss=True`, which transformers' Trainer needs; our loop computes the loss itself, from
            the rows of all processes.
    """

    def __init__(self, processor: PIRProcessor, return_loss: bool = False) -> None:
        self.processor = processor
        self.return_loss = return_loss

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Collate.

        Args:
            items: of [`TrainItems`], each with the same number of captions.

        Returns:
            `pixel_values` (items, 3, height, width), `input_ids` and the tokenizer's other tensors (items * captions,
            length), `image_ids` and `scene_labels` (items,) long.
        """
        captions = [caption for item in items for caption in item["captions"]]
        batch = dict(self.processor(images=[item["pixels"] for item in items], text=captions, return_tensors="pt"))
        batch["image_ids"] = torch.tensor([item["image_id"] for item in items])
        batch["scene_labels"] = torch.tensor([item["scene_label"] for item in items])
        return batch | {"return_loss": True} if self.return_loss else batch
