"""From the configuration of a run to its splits and its loader."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

from modeling_pir import PIRConfig, PIRProcessor
from modeling_pir.processing_pir import image_size
from training.config import TrainConfig
from training.data.augment import Augmentation
from training.data.device_images import DeviceLoader
from training.data.items import TrainCollator, TrainItems, normalised, only_normalises
from training.data.rows import dataset_facts
from training.data.sources import load_image_splits
from training.data.stream import Stream, StreamItems, StreamLoader, in_memory, open_streams


def load_splits(config: TrainConfig, accelerator: Accelerator | None = None) -> dict[str, Dataset | Stream]:
    """The train, validation and test rows of the run, checked before any work starts, by its processes together."""
    if config.streaming:
        return load_streamed_splits(config)
    options = {
        "split_list": config.split_list,
        "revision": config.data_revision,
        "skip_bad_images": config.skip_bad_images,
    }
    if accelerator is not None:
        options |= {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
    splits = load_image_splits(config.data, **options)
    num_items = len(splits["train"])
    if not config.captions_per_image:
        num_items = sum(len(captions) for captions in splits["train"]["captions"])
    if num_items < config.batch_size:
        raise ValueError(
            f"The training split of {config.data!r} gives {num_items} items, fewer than one batch of "
            f"{config.batch_size}: add --set batch_size={min(16, num_items)}, or more images."
        )
    check_scenes(config, splits["train"])
    return splits


def load_streamed_splits(config: TrainConfig) -> dict[str, Dataset | Stream]:
    """The training shards as they are, validation and test in memory and checked.

    Scenes are those of validation, because only reading all shards would tell which the training split has.
    """
    streams = open_streams(config.data, config.data_revision)
    for name in ("train", "validation", "test"):
        if name not in streams:
            raise ValueError(f"There is no split {name!r} in {config.data!r}: its shards are {', '.join(streams)}.")
    splits = {name: in_memory(streams[name], name, config.skip_bad_images) for name in ("validation", "test")}
    check_scenes(config, splits["validation"])
    return {"train": streams["train"]} | splits


def check_scenes(config: TrainConfig, rows: Dataset) -> None:
    """One sentence where the affiliation loss is on and no row names a scene."""
    affiliation_weight = config.model.get("affiliation_weight", PIRConfig.affiliation_weight)
    if affiliation_weight and not any(rows["scene"]):
        raise ValueError(
            f"{config.data!r} names no scenes, which the affiliation loss needs: add a scene column, or train without "
            "that loss (--set model.affiliation_weight=0)."
        )


def make_items(
    rows: Dataset, scenes: list[str], config: TrainConfig, processor: PIRProcessor, **options: object
) -> TrainItems:
    """Training items of a split, augmented as the configuration says."""
    settings = {"captions_per_image": config.captions_per_image, "cache_images": config.cache_images} | options
    return TrainItems(
        rows,
        scenes,
        image_size=image_size(processor.image_processor)[0],
        crop_scale=config.crop_scale,
        rand_augment=config.rand_augment,
        flips_and_turns=config.flips_and_turns,
        seed=config.seed,
        **settings,
    )


def build_loader(
    config: TrainConfig,
    rows: Dataset | Stream,
    scenes: list[str],
    processor: PIRProcessor,
    accelerator: Accelerator,
) -> DataLoader | StreamLoader | DeviceLoader:
    """The loader of the training split, not prepared: the latter two have this process's share already."""
    if config.images_on_device:
        return DeviceLoader(
            rows,
            scenes,
            processor,
            captions_per_image=config.captions_per_image,
            batch_size=config.batch_size,
            crop_scale=config.crop_scale,
            flips_and_turns=config.flips_and_turns,
            colour_changes=config.rand_augment,
            seed=config.seed,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
    is_augmented = config.feature_cache is None
    side, _ = image_size(processor.image_processor)
    as_bytes = is_augmented and only_normalises(processor.image_processor, side)
    collate = TrainCollator(processor, as_bytes=as_bytes)
    if not config.streaming:
        items = make_items(rows, scenes, config, processor, augment=is_augmented)
        return DataLoader(
            items,
            config.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=collate,
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            pin_memory=accelerator.device.type == "cuda",
        )
    items = StreamItems(
        rows,
        scenes,
        config.captions_per_image,
        Augmentation(side, config.crop_scale, config.rand_augment, config.flips_and_turns),
        config.shuffle_buffer,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        config.num_workers,
        config.skip_bad_images,
    )
    return StreamLoader(items, collate, config.batch_size, config.steps_per_epoch, accelerator)


def epoch_batches(
    accelerator: Accelerator,
    loader: DataLoader | StreamLoader | DeviceLoader,
    processor: PIRProcessor,
    epoch: int,
    start: int,
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of an epoch from step `start` of it on, the same whether or not those before were asked for."""
    if isinstance(loader, StreamLoader | DeviceLoader):
        batches = loader.epoch(epoch, start)
    else:
        loader.dataset.set_epoch(epoch)
        batches = accelerator.skip_first_batches(loader, start) if start else loader
        batches.set_epoch(epoch)
    for batch in batches:
        yield normalised(batch, processor.image_processor)


def split_facts(rows: Dataset | Stream) -> dict[str, int | str | None]:
    """What is known of a split, see `dataset_facts` and `Stream.facts`; it has a `fingerprint` in any case."""
    return rows.facts() if isinstance(rows, Stream) else dataset_facts(rows)
