"""Captioned images: from a source to rows, from rows to training items, from items to a batch.

Rows have one schema: `image` (datasets.Image), `captions` (list of strings), `scene` (string or None), `filename`.
"""

import hashlib
import logging
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets, load_dataset
from datasets import Image as ImageFeature

from modeling_pir.inference.images import IMAGE_SUFFIXES
from training.config import TrainConfig
from training.data.catalog import NAMES, known_dataset
from training.data.rows import SPLIT_ALIASES, SPLITS, check_captions, check_images
from training.data.sample.draw import load_sample

logger = logging.getLogger(__name__)


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
            "archive with python -m training.data.prepare, and give that folder."
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


def load_scene_rows(config: TrainConfig) -> dict[str, Dataset]:
    """Training and validation rows of a scene data set.

    Args:
        config: `data` is what [`load_image_captions`] takes, or a folder with one folder of images for each scene, as
            AID and NWPU come; then every tenth image validates, by a hash of its name.

    Returns:
        "train" and "validation" rows with `image`, `scene`, `filename`, `captions` (empty where there are none).
    """
    folder = Path(config.data)
    tables = [*folder.glob("metadata.*"), *folder.glob("*/metadata.*"), *folder.rglob("*.parquet")]
    if not folder.is_dir() or tables:
        options = {"split_list": config.split_list, "revision": config.data_revision}
        options["skip_bad_images"] = config.skip_bad_images
        return {name: load_image_captions(config.data, name, **options) for name in ("train", "validation")}
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{config.data!r} holds no images in folders of their scenes, such as airport/1.jpg.")
    rows = Dataset.from_dict(
        {
            "filename": [str(path.relative_to(folder)) for path in files],
            "image": [str(path) for path in files],
            "captions": [[] for _ in files],
            "scene": [path.parent.name for path in files],
        }
    ).cast_column("image", ImageFeature())
    parts = split_by_name(rows)
    splits = {"train": concatenate_datasets([parts["train"], parts["test"]]), "validation": parts["validation"]}
    return {name: check_images(rows, name, config.skip_bad_images) for name, rows in splits.items()}
