"""Training items of a corpus that fits neither memory nor disk: shards are read in order, shuffled in a buffer.

    accelerate launch -m training.train --config my.yaml --data SHARD_FOLDER_OR_HUB_ID --set streaming=true

Shards are parquet files or webdataset tars whose names start with their split, or a Hub data set. A *reader* is a
loader process of a training process: it keeps its own shards for the whole run and reads them pass after pass, each
pass in another order, so that what it gives out as its n-th item depends on the seed, the reader and n alone. A run is
resumed by that number: readers replay, undecoded, what they gave out since the pass began.
"""

import glob
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from datasets import IterableDataset as StreamedRows
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.data.augment import Augmentation
from training.data.formats.columns import NAMES, SCENES, caption_columns, captions_of, find_column, label_of
from training.data.formats.tables import is_parquet, is_tar
from training.data.formats.tar_shards import tar_rows
from training.data.items import TrainCollator, draw_captions, item_seed
from training.data.rows import (
    FEATURES,
    SPLIT_ALIASES,
    check_captions,
    check_images,
    decode_image,
    has_words,
    image_column,
    join_captions,
)

logger = logging.getLogger(__name__)
UNDECODED = Features(FEATURES | {"image": ImageFeature(decode=False)})


@dataclass
class Stream:
    """A split that is read as it is needed.

    Attributes:
        source: the folder or Hub id.
        rows: undecoded, of `datasets`.
        num_rows: in all its shards; None where only reading would tell.
        shard_rows: rows of each shard, in order; None where only reading would tell.
        fingerprint: short hash of what the shards are called and how long they are; their content is not read.
    """

    source: str
    rows: StreamedRows
    num_rows: int | None
    shard_rows: list[int] | None
    fingerprint: str

    def facts(self) -> dict[str, int | str | None]:
        """What is known of the split without reading it: `images`, None where it does not say, and `fingerprint`."""
        return {"images": self.num_rows, "fingerprint": self.fingerprint}


def open_streams(source: str, revision: str | None = None) -> dict[str, Stream]:
    """Open the splits of a sharded source; nothing but names and parquet footers is read.

    Args:
        source: folder with parquet or tar shards (itself or its `data/`), or a Hub id.
        revision: of a Hub data set.

    Returns:
        Split name to stream.

    Raises:
        ValueError: the source has no shards.
    """
    path = Path(source)
    if not path.is_dir():
        if path.suffix or source.count("/") != 1:
            raise ValueError(f"There are no shards at {source!r}: streaming takes a folder of them or a Hub id.")
        loaded = load_dataset(source, revision=revision, streaming=True)
        return {SPLIT_ALIASES.get(name, name): _stream(source, rows, revision, []) for name, rows in loaded.items()}
    folders = (path, path / "data")
    found = (sorted(filter(is_kind, folder.glob("*"))) for is_kind in (is_parquet, is_tar) for folder in folders)
    paths = next((files for files in found if files), [])
    if not paths:
        raise ValueError(
            f"{source!r} holds no .parquet or .tar shards, which streaming needs: train without streaming."
        )
    files: dict[str, list[Path]] = {}
    for file in paths:
        name = re.split(r"[-.]", file.name)[0].lower()
        files.setdefault(SPLIT_ALIASES.get(name, name), []).append(file)
    names = {name: list(map(str, own)) for name, own in files.items()}
    if is_tar(paths[0]):  # datasets reads only tars whose rows have one kind of image and the same parts
        loaded = {
            name: StreamedRows.from_generator(tar_rows, features=UNDECODED, gen_kwargs={"files": own})
            for name, own in names.items()
        }
    else:
        patterns = {name: list(map(glob.escape, own)) for name, own in names.items()}
        loaded = load_dataset("parquet", data_files=patterns, streaming=True)
    return {name: _stream(source, loaded[name], revision, own) for name, own in files.items()}


def _stream(source: str, rows: StreamedRows, revision: str | None, files: list[Path]) -> Stream:
    has_footers = bool(files) and is_parquet(files[0])
    shard_rows = [pq.read_metadata(file).num_rows for file in files] if has_footers else None
    facts = (rows.info.splits or {}).get(str(rows.split))
    num_rows = sum(shard_rows) if shard_rows else facts.num_examples or None if facts else None
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, ImageFeature):
            rows = rows.cast_column(name, ImageFeature(decode=False))
    identity = [(file.name, file.stat().st_size) for file in files] or [source, revision, num_rows, rows.num_shards]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    return Stream(source, rows, num_rows, shard_rows, digest)


def plain_row(raw: dict, features: Features | None, name: str) -> dict:
    """`image` (undecoded), `captions`, `scene` and `filename`, from what a source calls them.

    Args:
        raw: a row.
        features: of the source.
        name: the source, for the error.

    Returns:
        The row; `filename` is None where the source has none.

    Raises:
        ValueError: it has no image or no captions.
    """
    features = features or {}
    own_column = image_column(features)
    image, text_columns = raw.get(own_column), caption_columns(raw)
    name_column = find_column([column for column in raw if column != own_column], NAMES)
    filename = label_of(raw.get(name_column))
    if isinstance(image, bytes):
        image = {"bytes": image, "path": filename}
    if not isinstance(image, dict) or not text_columns:
        raise ValueError(f"A row of {name!r} has the columns {', '.join(raw)}: it needs image and captions.")
    if image["bytes"] is None and image["path"] is not None:
        raise ValueError(f"A row of {name!r} has of its image {image['path']!r} no bytes: store them in the shards.")
    scene_column = find_column(raw, SCENES)
    scene = raw.get(scene_column)
    if isinstance(features.get(scene_column), ClassLabel) and scene is not None:
        scene = features[scene_column].names[scene] if scene >= 0 else None
    captions = [caption for column in text_columns for caption in captions_of(raw[column])]
    return {"filename": filename, "image": image, "captions": captions, "scene": label_of(scene)}


def in_memory(stream: Stream, split: str, skip_bad_images: bool) -> Dataset:
    """All rows of a stream that is small (validation, test), checked like those of `load_image_captions`."""
    rows = [plain_row(raw, stream.rows.features, stream.source) for raw in stream.rows]
    rows = join_captions(Dataset.from_list(rows, features=FEATURES), split)
    return check_images(check_captions(rows), split, skip_bad_images)


class StreamItems(IterableDataset):
    """Endless training items of a stream; each reader (see the module) gives out its own.

    Args:
        stream: of [`open_streams`].
        scenes: of `scene_names`; other scenes get the label -1.
        captions_per_image: of an item, drawn anew in each pass; at least 1.
        augmentation: of the images.
        shuffle_buffer: rows of a reader that are held, undecoded, to be given out in another order.
        seed: of order, captions and augmentation.
        process_index: of this training process.
        num_processes: training processes.
        num_workers: loader processes of each; 0 loads in the training process.
        skip_bad_images: leave out rows whose image or captions cannot be used, with a warning, instead of stopping.

    Raises:
        ValueError: fewer shards than readers.
    """

    def __init__(
        self,
        stream: Stream,
        scenes: list[str],
        captions_per_image: int,
        augmentation: Augmentation,
        shuffle_buffer: int,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        skip_bad_images: bool = False,
    ) -> None:
        self.stream, self.captions_per_image, self.augmentation = stream, captions_per_image, augmentation
        self.label_of = {scene: label for label, scene in enumerate(scenes)}
        self.shuffle_buffer, self.seed, self.skip_bad_images = shuffle_buffer, seed, skip_bad_images
        self.process_index, self.num_workers, self.num_slots = process_index, num_workers, max(num_workers, 1)
        self.num_readers = num_processes * self.num_slots
        self.first_batch, self.batch_size = 0, 1
        if stream.rows.num_shards < self.num_readers:
            raise ValueError(
                f"The training split of {stream.source!r} has {stream.rows.num_shards} shards, fewer than the "
                f"{self.num_readers} loader processes that share them: write more and smaller ones, or lower "
                "num_workers or the number of processes."
            )

    def start_at(self, first_batch: int, batch_size: int) -> None:
        """Choose where iterating starts.

        Args:
            first_batch: batches that the process has had from its loader, which asks its workers in turn.
            batch_size: items of one.
        """
        self.first_batch, self.batch_size = first_batch, batch_size

    def __iter__(self) -> Iterator[dict]:
        """Items like those of `TrainItems`: `pixels`, `captions`, `image_id`, `scene_label`."""
        worker = get_worker_info()
        # The loader begins with its worker 0: that one is now the reader whose turn it was when the run stopped.
        slot = ((worker.id if worker else 0) + self.first_batch) % self.num_slots
        batches_before = len(range(slot, self.first_batch, self.num_slots))
        reader = self.process_index * self.num_slots + slot
        for place, row in self._rows_from(reader, batches_before * self.batch_size):
            yield self._item(row, reader, place)

    def _rows_from(self, reader: int, start: int) -> Iterator[tuple[int, dict]]:
        """Usable rows of a reader with their number, from number `start` on, pass after pass."""
        rows = self.stream.rows.shard(self.num_readers, reader, contiguous=False)
        rows = rows.shuffle(seed=self.seed, buffer_size=self.shuffle_buffer)
        first_pass, place = 0, 0
        if self.stream.shard_rows and not self.skip_bad_images:  # else only reading tells how long a pass is
            rows_of_pass = sum(self.stream.shard_rows[reader :: self.num_readers])
            first_pass = start // max(rows_of_pass, 1)
            place = first_pass * rows_of_pass
        for number in count(first_pass):
            rows.set_epoch(number)
            place_before = place
            # `iter` and not a plain loop, which would split the reader's shards among the workers once more.
            for batch in rows.iter(batch_size=1):
                row = self._usable({name: values[0] for name, values in batch.items()})
                if row is not None:
                    if place >= start:
                        yield place, row
                    place += 1
            if place == place_before:
                raise ValueError(f"The shards of loader process {reader} of {self.stream.source!r} have no usable row.")

    def _usable(self, raw: dict) -> dict | None:
        """The row with the captions that have words; None where it is to be left out."""
        try:
            row = plain_row(raw, self.stream.rows.features, self.stream.source)
            row["captions"] = [caption for caption in row["captions"] if has_words(caption)]
            row["filename"] = row["filename"] or row["image"].get("path") or "a row without a name"
            if not row["captions"]:
                raise ValueError(f"No caption of the image {row['filename']!r} has a word: write one.")
            if self.skip_bad_images:
                decode_image(row)
        except ValueError as error:
            if not self.skip_bad_images:
                raise
            logger.warning("Left out: %s", error)
            return None
        return row

    def _item(self, row: dict, reader: int, place: int) -> dict:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(item_seed(self.seed, reader, place))  # see TrainItems
            captions = draw_captions(row["captions"], self.captions_per_image)
            pixels = self.augmentation(decode_image(row), captions)
        # The same picture in two shards is one image: its captions are right for both.
        digest = hashlib.blake2b(row["image"]["bytes"] or row["image"]["path"].encode(), digest_size=8).digest()
        image_id = int.from_bytes(digest, "little", signed=True)
        label = self.label_of.get(row["scene"], -1)
        return {"pixels": pixels, "captions": captions, "image_id": image_id, "scene_label": label}


class StreamLoader:
    """Batches of a stream for this process, on its device; an epoch is a number of steps.

    Args:
        items: of this process.
        collate: makes a batch of items.
        batch_size: items of a step, over all processes together.
        steps_per_epoch: 0 for one pass, where the number of rows is known.
        accelerator: of the run.

    Raises:
        ValueError: the length of an epoch is unknown, or the split is shorter than a batch.
    """

    def __init__(
        self,
        items: StreamItems,
        collate: TrainCollator,
        batch_size: int,
        steps_per_epoch: int,
        accelerator: Accelerator,
    ) -> None:
        stream = items.stream
        if stream.num_rows is None and not steps_per_epoch:
            raise ValueError(f"{stream.source!r} does not say how many rows it has: set steps_per_epoch.")
        if stream.num_rows is not None and stream.num_rows < batch_size:
            raise ValueError(
                f"The training split of {stream.source!r} has {stream.num_rows} rows, fewer than one batch of "
                f"{batch_size}: lower batch_size."
            )
        self.items, self.device = items, accelerator.device
        self.steps_per_epoch = steps_per_epoch or stream.num_rows // batch_size
        batch_size = batch_size // accelerator.num_processes
        options = {"num_workers": items.num_workers, "pin_memory": self.device.type == "cuda"}
        self.loader = DataLoader(items, batch_size, collate_fn=collate, **options)
        self.batches: Iterator[dict] | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch

    def epoch(self, epoch: int, start: int) -> Iterator[dict[str, torch.Tensor]]:
        """The rest of an epoch.

        Args:
            epoch: which one.
            start: steps of it that are done already.

        Returns:
            Its batches. The readers run on from one epoch to the next; only the first call makes them replay.
        """
        if self.batches is None:
            self.items.start_at(epoch * len(self) + start, self.loader.batch_size)
            self.batches = iter(self.loader)
        for batch in islice(self.batches, len(self) - start):
            yield send_to_device(batch, self.device, non_blocking=True)
