"""Load captioned images: from a Hub id, a folder or a table to rows.

Rows have one schema: `image` (datasets.Image), `captions` (list of strings), `scene` (string or None), `filename`.
"""

import glob
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets, load_dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HTTPError

from modeling_pir.inference.images import IMAGE_SUFFIXES
from training.config import TrainConfig
from training.data.catalog import NAMES as NAMES_OF_DATA
from training.data.catalog import known_dataset
from training.data.formats.columns import NAMES, SCENES, caption_columns, captions_of, find_column, label_of
from training.data.formats.records import join_records, names_of
from training.data.formats.tables import SPREADSHEETS, TABLE_SUFFIXES, Record, is_parquet, is_tar, read_records
from training.data.formats.tar_shards import tar_rows
from training.data.formats.text_file import read_text
from training.data.rows import (
    FEATURES,
    SPLIT_ALIASES,
    SPLITS,
    check_captions,
    check_images,
    image_column,
    join_captions,
)
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
        source: "sample" (drawn by code), a known name (rsicd, rsitmd, ucm), a Hub id, a folder of parquet or tar files
            whose names start with their split, a table (CSV, TSV, JSON lines, JSON, COCO captions, Karpathy's splits,
            parquet) of `file_name` and `captions` or `caption`, optionally `scene` and `split`, or a folder of images
            with such a table, one for the whole folder or one for each split. Lines of one image are joined.
        split: "train", "validation" ("val", "valid" and "dev" are the same) or "test".
        split_list: a known name whose published split re-assigns the images by their file names.
        revision: of a Hub data set.
        skip_bad_images: leave unreadable images out, counted and listed, instead of stopping.

    Returns:
        The rows.

    Raises:
        ValueError: a source, split, image or caption that cannot be used; one sentence names it.
    """
    return load_image_splits(source, [split], split_list, revision, skip_bad_images)[split]


def load_image_splits(
    source: str,
    splits: Sequence[str] = SPLITS,
    split_list: str | None = None,
    revision: str | None = None,
    skip_bad_images: bool = False,
    process_index: int = 0,
    num_processes: int = 1,
) -> dict[str, Dataset]:
    """Load several splits of captioned images, reading their source once.

    Args:
        source: see [`load_image_captions`].
        splits: their names.
        split_list: see [`load_image_captions`].
        revision: of a Hub data set.
        skip_bad_images: see [`load_image_captions`].
        process_index: see [`check_images`].
        num_processes: see [`check_images`].

    Returns:
        The rows of each split, by the name that was asked for.

    Raises:
        ValueError: see [`load_image_captions`].
    """
    if source == "sample":
        return {split: load_sample(SPLIT_ALIASES.get(split, split)) for split in splits}
    facts = known_dataset(split_list or source) if split_list or source in NAMES_OF_DATA else None
    parts = _load_parts(source, revision, facts.hub_id if facts and source in NAMES_OF_DATA else None)
    parts = {name: _with_schema(rows, name, source, facts) for name, rows in parts.items()}
    if split_list:
        rows = concatenate_datasets(list(parts.values()))
        assigned = [facts.split_of(filename) for filename in rows["filename"]]
        parts = {name: rows.select([i for i, own in enumerate(assigned) if own == name]) for name in SPLITS}
    elif list(parts) == ["all"]:
        parts = split_by_name(parts["all"])
    loaded = {}
    for split in splits:
        name = SPLIT_ALIASES.get(split, split)
        if name not in parts or not len(parts[name]):
            existing = ", ".join(own for own, rows in parts.items() if len(rows))
            raise ValueError(
                f"There is no split {name!r} in {source!r}: it has {existing or 'no images at all'}; add a column "
                "split whose cells are train, val or test, or more images."
            )
        rows = check_captions(parts[name])
        loaded[split] = check_images(rows, name, skip_bad_images, process_index, num_processes)
    return loaded


def _load_parts(source: str, revision: str | None, hub_id: str | None) -> dict[str, Dataset]:
    """Rows of every split of a source, by split name; {"all": rows} where it knows no splits."""
    path = Path(source)
    if path.is_file():
        if is_parquet(path):
            return _read_parquet([path], path.parent)
        return _read_tars([path]) if is_tar(path) else read_table(path, path.parent)
    if path.is_dir():
        for is_kind, read in ((is_parquet, lambda files: _read_parquet(files, path)), (is_tar, _read_tars)):
            for folder in (path, path / "data"):
                if files := sorted(filter(is_kind, folder.glob("*"))):
                    return read(files)
        return _read_folder(path)
    if hub_id is None and source in NAMES_OF_DATA:
        raise ValueError(
            f"{known_dataset(source).name} is not on the Hub as far as we know: make a folder from the official "
            "archive with python -m training.data.prepare, and give that folder."
        )
    if hub_id is None and (path.suffix or source.count("/") != 1 or source.startswith(("/", ".", "~"))):
        raise ValueError(f"There is no data at {source!r}: give a folder, a table, a Hub id or a known name.")
    try:
        loaded = load_dataset(hub_id or source, revision=revision)
    except (OSError, HTTPError) as error:  # of datasets, the Hub, or the connection to it
        reason = " ".join(str(error).split())
        raise ValueError(
            f"There is no data at {source!r}, neither a folder or table here nor a data set that the Hub gives: check "
            f"the name and the connection. ({reason})"
        ) from error
    assert isinstance(loaded, DatasetDict)
    return {SPLIT_ALIASES.get(name, name): rows for name, rows in loaded.items()}


def _by_split(files: list[Path]) -> dict[str, list[str]]:
    """Shards by the split that their names start with; a single file of another name knows no splits."""
    names: dict[str, list[str]] = {}
    for file in files:
        name = re.split(r"[-.]", file.name)[0]
        name = SPLIT_ALIASES.get(name.lower(), name.lower())
        names.setdefault(name, []).append(str(file))
    return {"all": next(iter(names.values()))} if len(names) == 1 and not set(names) & set(SPLITS) else names


def _read_parquet(files: list[Path], root: Path) -> dict[str, Dataset]:
    """Rows of parquet files that hold the images, or that are a table of their file names."""
    by_split = _by_split(files)
    for file in files:
        try:
            pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{str(file)!r} is not a complete Parquet file ({error}): copy it again.") from error
    # neither any name of a split nor any folder's name is one that datasets takes
    loaded = load_dataset(
        "parquet", data_files={f"part_{n}": list(map(glob.escape, own)) for n, own in enumerate(by_split.values())}
    )
    parts = dict(zip(by_split, loaded.values(), strict=True))
    kinds = next(iter(parts.values())).features
    image = image_column(kinds)
    tables = {}
    for name, rows in parts.items():
        if image in kinds and kinds[image] not in (Value("string"), Value("large_string")):
            records = _records_of_paths(rows, image, name, files[0])
            if records is None:
                tables[name] = rows
                continue
        elif find_column(kinds, NAMES) is None or not caption_columns(kinds):
            raise ValueError(f"{str(files[0])!r} has the columns {', '.join(kinds)}: it needs image and captions.")
        else:
            records = [Record(f"row {number}", row) for number, row in enumerate(rows, start=1)]
        own = _rows_of_records(records, files[0], root)
        tables |= {name: own["all"]} if set(own) == {"all"} else own
    return tables


def _records_of_paths(rows: Dataset, image: str, split: str, file: Path) -> list[Record] | None:
    """Records of rows whose images are paths without bytes, as `datasets` writes those of a folder; None for others.

    Raises:
        ValueError: some images are paths only; which files they mean depends on where the rest comes from.
    """
    column = rows.data[image]
    if not pa.types.is_struct(column.type):
        return None
    paths, contents = (pc.struct_field(column, name) for name in ("path", "bytes"))
    bare = pc.and_(pc.is_null(contents), pc.is_valid(paths)).to_pylist()
    if not any(bare):
        return None
    if not all(bare):
        raise ValueError(
            f"{str(file)!r} holds some images of {split!r}, but of row {bare.index(True) + 1} only its path "
            f"{paths[bare.index(True)].as_py()!r}: store the images of all rows, or of none."
        )
    others = rows.remove_columns(image)
    return [
        Record(f"row {number}", {"file_name": path} | {key: cell for key, cell in row.items() if key not in NAMES})
        for number, (path, row) in enumerate(zip(paths.to_pylist(), others, strict=True), start=1)
    ]


def _read_tars(files: list[Path]) -> dict[str, Dataset]:
    """Rows of webdataset tars, in memory."""
    try:
        return {
            name: Dataset.from_generator(tar_rows, features=FEATURES, gen_kwargs={"files": own})
            for name, own in _by_split(files).items()
        }
    except DatasetGenerationError as error:  # which hides what `tar_rows` says
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from error
        raise


def _read_folder(folder: Path) -> dict[str, Dataset]:
    """Rows of a folder of images: by its table, or one in each split's sub-folder, or a text file beside each image."""
    own, inner = _tables(folder), [table for sub in sorted(folder.iterdir()) if sub.is_dir() for table in _tables(sub)]
    if len(own) == 1:
        return read_table(own[0], folder)
    tables = own or inner
    names = {table: _split_of_name(table.stem if own else table.parent.name) for table in tables}
    if tables and (None in names.values() or len(set(names.values())) < len(tables)):
        raise ValueError(
            f"{str(folder)!r} has several tables, {tables[0].relative_to(folder)} and {tables[1].relative_to(folder)}: "
            "give the one that is meant, or name one for each split, such as train.csv, val.csv and test.csv."
        )
    if tables:
        return {names[table]: rows for table in tables for rows in read_table(table, table.parent).values()}
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"There are no images in {str(folder)!r}: give a folder with images and a captions.csv.")
    notes = {path.with_suffix(""): path for path in sorted(folder.rglob("*")) if path.suffix.lower() == ".txt"}
    if any(path.with_suffix("") in notes for path in images):
        records = [_beside(path, notes.get(path.with_suffix("")), folder) for path in images]
        return _rows_of_records(records, folder, folder)
    raise ValueError(
        f"{str(folder)!r} has images but no captions: add a captions.csv with the columns file_name and caption, or a "
        'metadata.jsonl with lines like {"file_name": "a.jpg", "captions": ["..."]}.'
    )


def _beside(image: Path, notes: Path | None, folder: Path) -> Record:
    """The record of an image whose captions are the lines of a text file of its name."""
    text = read_text(notes) if notes and notes.stat().st_size else ""
    captions = [line.strip() for line in text.split("\n") if line.strip()]
    place = (notes or image.with_suffix(".txt")).relative_to(folder)
    return Record(str(place), {"file_name": str(image.relative_to(folder)), "captions": captions})


def _tables(folder: Path) -> list[Path]:
    """The tables of captions in a folder: its metadata file, or else every table; of .txt and .json those named so."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    metadata = [path for path in files if path.stem == "metadata" and path.suffix.lower() in TABLE_SUFFIXES]
    sure = (".csv", ".tsv", ".jsonl", ".ndjson", ".jl")
    named = re.compile(r"caption|dataset|karpathy|annotation|metadata|sentence", re.IGNORECASE)
    others = [
        path
        for path in files
        if path.suffix.lower() in sure or (path.suffix.lower() in (".json", ".txt") and named.search(path.stem))
    ]
    spreadsheets = [path for path in files if path.suffix.lower() in SPREADSHEETS]
    return metadata[:1] or others or spreadsheets[:1]


def _split_of_name(name: str) -> str | None:
    """The split that a file's or a folder's name says: captions_train2017 is "train"."""
    words = [SPLIT_ALIASES.get(word, word) for word in re.findall(r"[a-z]+", name.lower())]
    return next((word for word in words if word in SPLITS), name if words and len(words) == 1 else None)


def read_table(table: Path, root: Path) -> dict[str, Dataset]:
    """Rows of a table of file names and captions, one for each image, by split; {"all": rows} where it names none.

    Args:
        table: see `formats.tables.read_records`.
        root: folder that its file names start from; an image that is not there is looked for below it by its name.

    Raises:
        ValueError: one sentence with the table, the line and the remedy.
    """
    return _rows_of_records(read_records(table), table, root)


def _rows_of_records(records: list[Record], table: Path, root: Path) -> dict[str, Dataset]:
    """Rows of records: lines of one image are joined, in the order of their first line."""
    images = join_records(records, table, root)
    files_of: dict[str, list[Path]] = {}
    for file, image in images.items():
        files_of.setdefault(SPLIT_ALIASES.get(image.split, image.split) or "all", []).append(file)
    named = {file: name for file, name in zip(images, names_of(list(images), root), strict=True)}
    return {
        split: Dataset.from_dict(
            {
                "filename": [named[file] for file in files],
                "image": [str(file) for file in files],
                "captions": [images[file].captions for file in files],
                "scene": [images[file].scene for file in files],
            },
            features=FEATURES,
        )
        for split, files in files_of.items()
    }


def _with_schema(rows: Dataset, name: str, source: str, facts: object | None) -> Dataset:
    """The four columns, from what a source calls them, one row for each image; scenes of a known data set by name."""
    if rows.features != FEATURES:
        rows = _renamed(rows, name, source)
    rows = join_captions(rows, name).select_columns(list(FEATURES))
    if facts is None:
        return rows
    scenes = [
        scene or facts.scene_of(filename) for scene, filename in zip(rows["scene"], rows["filename"], strict=True)
    ]
    rows = rows.remove_columns("scene").add_column("scene", scenes, feature=Value("string"))
    return rows.select_columns(list(FEATURES))


def _renamed(rows: Dataset, name: str, source: str) -> Dataset:
    """Rows with our columns, read from the source's; its image column is taken as it is."""
    kinds = rows.features
    image = image_column(kinds)
    text_columns = caption_columns([column for column in kinds if column != image])
    if image not in kinds or not text_columns:
        raise ValueError(
            f"The split {name!r} of {source!r} has the columns {', '.join(kinds)}: it needs image and captions."
        )
    name_column = find_column([column for column in kinds if column != image], NAMES)
    scene_column = find_column(kinds, SCENES)
    others = rows.remove_columns(image)
    names = _paths(rows, image) if name_column is None else [label_of(value) for value in others[name_column]]
    scenes = [None] * len(rows) if scene_column is None else list(others[scene_column])
    if isinstance(kinds.get(scene_column), ClassLabel):
        labels = kinds[scene_column].names
        scenes = [labels[label] if label is not None and label >= 0 else None for label in scenes]
    captions = [[] for _ in range(len(rows))]
    for column in text_columns:
        for place, value in enumerate(others[column]):
            try:
                captions[place] = captions[place] + captions_of(value)
            except ValueError as error:
                raise ValueError(f"Row {place + 1} of the split {name!r} of {source!r}: {error}.") from error
    columns = {"filename": names, "captions": captions, "scene": [label_of(scene) for scene in scenes]}
    rows = rows.select_columns([image]).rename_columns({image: "image"} if image != "image" else {})
    for column, values in columns.items():
        rows = rows.add_column(column, values, feature=FEATURES[column])
    return rows.cast_column("image", ImageFeature()).select_columns(list(FEATURES))


def _paths(rows: Dataset, image: str) -> list[str | None]:
    """What images are called that are stored with their names; None where any has none."""
    column = rows.data[image]
    paths = pc.struct_field(column, "path").to_pylist() if pa.types.is_struct(column.type) else [None]
    return paths if all(paths) else [None] * len(rows)


def split_by_name(rows: Dataset) -> dict[str, Dataset]:
    """80 / 10 / 10 by a hash of the file name, so that an image keeps its split when others are added."""
    places = [int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 for name in rows["filename"]]
    names = ["validation" if place == 0 else "test" if place == 1 else "train" for place in places]
    logger.warning(
        "The data knows no splits: 80 % of the images train, 10 % validate, 10 % test, by a hash of the file name."
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
